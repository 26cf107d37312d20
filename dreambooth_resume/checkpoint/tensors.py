"""Tensors as safetensors, byte for byte the same in every process.

The library's writer orders metadata by a hash that differs between processes, so the same tensors gave three different
files in three processes (measured). This one sorts everything and adds nothing of the moment. The library reads it.
Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Mapping, Sequence

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
_HEAD_LENGTH = struct.Struct("<Q")


class Blob:
    """A file to be written: its bytes in order, without a copy of the tensors, and what every copy must hash to."""

    def __init__(self, parts: Sequence[Body]) -> None:
        self.parts = tuple(parts)
        self.size_bytes = sum(len(part) for part in parts)
        self._sha256: str | None = None
        self._lock = threading.Lock()

    @property
    def sha256(self) -> str:
        """Of what is meant, not of what was stored. Computed once, by whoever asks first, beside the sending."""
        with self._lock:
            if self._sha256 is None:
                digest = hashlib.sha256()
                for part in self.parts:
                    digest.update(part)
                self._sha256 = digest.hexdigest()
            return self._sha256


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
    return Blob([_HEAD_LENGTH.pack(len(head)), head, *_bytes_of(list(contiguous.values()))])


def content_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of what follows the header in a file of these tensors: it names the weights, whatever is said of them."""
    digest = hashlib.sha256()
    for piece in _bytes_of([tensors[name].detach().contiguous() for name in sorted(tensors)]):
        digest.update(piece)
    return digest.hexdigest()


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
