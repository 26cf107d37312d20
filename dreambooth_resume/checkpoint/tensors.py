"""Tensors as safetensors, byte for byte the same in every process.

The library's writer orders metadata by a hash that differs between processes, so the same tensors gave three different
files in three processes (measured). This one sorts everything and adds nothing of the moment. The library reads it.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load

from dreambooth_resume.storage.base import Body

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A file to be written: its bytes in order, without a copy of the tensors, and what they must hash to."""

    parts: tuple[Body, ...]
    size_bytes: int
    sha256: str


def blob_of(parts: Sequence[Body]) -> Blob:
    """Hash `parts`: from here on every copy of them can be checked against what was meant."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return Blob(parts=tuple(parts), size_bytes=sum(len(part) for part in parts), sha256=digest.hexdigest())


def serialise(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> Blob:
    """A safetensors file of CPU tensors, sorted by name. The tensors must not change while the blob is in use.

    Raises TypeError for a dtype that the format has no name for.
    """
    names = sorted(tensors)
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    contiguous = {name: tensors[name].detach().contiguous() for name in names}
    offset = 0
    for name in names:
        tensor = contiguous[name]
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"{name}: {tensor.dtype} has no name in the safetensors format")
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    head += b" " * (-len(head) % _ALIGNMENT)
    return blob_of([struct.pack("<Q", len(head)), head, *_bytes_of(list(contiguous.values()))])


def deserialise(body: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file. Raises ValueError if `body` isn't one."""
    try:
        return load(body)
    except SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from error


def metadata_of(body: bytes) -> dict[str, str]:
    """The header's metadata of a safetensors file. Raises ValueError if `body` isn't one."""
    try:
        (length,) = struct.unpack_from("<Q", body)
        metadata = json.loads(body[8 : 8 + length]).get("__metadata__", {})
    except (struct.error, AttributeError) as error:
        raise ValueError(f"not a safetensors file: {error}") from error
    return {str(name): str(value) for name, value in metadata.items()}


def _bytes_of(tensors: Sequence[torch.Tensor]) -> list[memoryview]:
    """The bytes of all tensors in their order. Neighbours in memory, as all of a snapshot are, make one piece.

    Hashing and writing let go of the interpreter's lock at each piece and then have to get it back from training.
    """
    pieces: list[torch.Tensor] = []
    for tensor in tensors:
        piece = tensor.reshape(-1).view(torch.uint8)
        if pieces and are_neighbours(pieces[-1], piece):
            pieces[-1] = torch.as_strided(pieces[-1], (pieces[-1].numel() + piece.numel(),), (1,))
        else:
            pieces.append(piece)
    return [_memory_of(piece) for piece in pieces]


def are_neighbours(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Does flat `second` begin where flat `first` ends, in one piece of memory?"""
    is_one_piece = first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    return is_one_piece and first.storage_offset() + first.numel() == second.storage_offset()


def _memory_of(piece: torch.Tensor) -> memoryview:
    flat: np.ndarray[tuple[int], np.dtype[np.uint8]] = piece.numpy()
    return flat.data
