"""Tensors as safetensors: the same bytes in every process, and the library reads them."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from dreambooth_resume.checkpoint.tensors import Blob, deserialise, serialise

pytestmark = pytest.mark.quick


def every_kind() -> dict[str, torch.Tensor]:
    """All dtypes, in shapes that leave every following tensor unaligned."""
    numbers = torch.arange(-7, 8)
    kinds = {
        "z.f64": numbers.to(torch.float64) / 3,
        "a.f32": (numbers.to(torch.float32) / 3).reshape(3, 5),
        "m.f16": numbers.to(torch.float16) / 3,
        "m.bf16": numbers.to(torch.bfloat16) / 3,
        "b.i64": numbers.to(torch.int64),
        "b.i32": numbers.to(torch.int32),
        "b.i16": numbers.to(torch.int16),
        "c.i8": numbers.to(torch.int8),
        "a.u8": torch.arange(3, dtype=torch.uint8),
        "a.bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(3.5),
        "scalar.i64": torch.tensor(7),
        "empty": torch.empty(0),
        "empty.shape": torch.empty(3, 0, 2, dtype=torch.bfloat16),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "strided": torch.arange(10.0)[::3],
        "ünï": torch.tensor([float("nan"), float("inf"), -0.0]),
    }
    kinds["shared"] = kinds["a.f32"][1]
    return kinds


def body_of(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    return b"".join(serialise(tensors, metadata or {}).parts)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(*bits)


def test_what_was_written_is_read_back_to_the_bit() -> None:
    tensors = every_kind()
    read = deserialise(body_of(tensors, {"format": "pt"}))
    assert read.keys() == tensors.keys()
    assert all(same(tensors[name], read[name]) for name in tensors)


def test_the_library_reads_the_file_both_ways(tmp_path: Path) -> None:
    tensors, path = every_kind(), tmp_path / "state.safetensors"
    path.write_bytes(body_of(tensors, {"format": "pt", "alpha": "8"}))
    whole = safetensors.torch.load_file(path)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "alpha": "8"}
        for name, tensor in tensors.items():
            assert same(tensor, whole[name])
            assert same(tensor, file.get_tensor(name))


def test_the_blob_tells_its_size_and_digest() -> None:
    blob = serialise(every_kind(), {})
    body = b"".join(blob.parts)
    assert (blob.size_bytes, blob.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert Blob([]).size_bytes == 0


def test_the_order_in_which_things_were_put_together_changes_nothing() -> None:
    tensors = every_kind()
    backwards = dict(reversed(tensors.items()))
    assert body_of(tensors, {"a": "1", "b": "2"}) == body_of(backwards, {"b": "2", "a": "1"})


def test_the_header_is_sorted_aligned_and_adds_nothing() -> None:
    body = body_of({"b": torch.zeros(1), "a": torch.zeros(2)}, {"z": "1", "y": "2"})
    (size,) = struct.unpack("<Q", body[:8])
    header = json.loads(body[8 : 8 + size])
    assert list(header) == ["__metadata__", "a", "b"]
    assert list(header["__metadata__"]) == ["y", "z"]
    assert size % 8 == 0
    assert len(body) == 8 + size + 12


def test_no_tensors_and_no_metadata_are_a_file_too() -> None:
    assert deserialise(body_of({})) == {}


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn])
def test_a_dtype_without_a_name_is_refused_with_the_tensors_name(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="moment"):
        serialise({"moment": torch.zeros(2).to(dtype)}, {})


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 50, -1])
def test_a_cut_file_is_no_safetensors_file(cut: int) -> None:
    with pytest.raises(ValueError, match="not a safetensors file"):
        deserialise(body_of(every_kind())[:cut])


_WRITER = """
import hashlib, torch
from dreambooth_resume.checkpoint.tensors import serialise
names = {f"block.{n}.lora_{side}" for n in range(40) for side in "AB"}
tensors = {name: torch.full((4, 3), float(len(name))) for name in names}
metadata = {key: key.upper() for key in {"alpha", "rank", "format", "targets", "base"}}
print(serialise(tensors, metadata).sha256)
"""


def test_processes_with_other_hash_seeds_write_the_same_bytes() -> None:
    root = str(Path(__file__).parents[3])
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
        )
        for seed in ("0", "12345")
    ]
    digests = [writer.communicate(timeout=60)[0] for writer in writers]
    assert digests[0] == digests[1]
    assert len(digests[0].strip()) == 64


def test_neighbours_in_memory_are_one_piece_with_the_bytes_of_each() -> None:
    memory = torch.arange(100.0)
    views = torch.split(memory, [10, 20, 0, 30, 40])
    tensors = {f"{number}": view for number, view in enumerate(views)}
    apart = {name: view.clone() for name, view in tensors.items()}
    together = serialise(tensors, {})
    assert len(together.parts) == 3  # the header's length, the header, the tensors
    assert len(serialise(apart, {}).parts) > 3
    assert b"".join(together.parts) == body_of(apart)
    turned_round = {"a": views[1], "b": views[0]}
    assert body_of(turned_round) == body_of({name: view.clone() for name, view in turned_round.items()})
