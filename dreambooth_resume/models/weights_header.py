"""Names and shapes of the tensors in a safetensors file, from its header: no weight is read, and no torch needed."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from dreambooth_resume.errors import BadInput

_MAX_HEADER_BYTES = 100_000_000


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Raises BadInput if the file is none or is torn."""
    fix = "download or save the base model again"
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER_BYTES:
                raise ValueError(f"its header claims {length} bytes")
            text = file.read(length)
        if len(text) < length:
            raise ValueError(f"it ends inside its header of {length} bytes")
        header = json.loads(text)
        return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path.name} is not a safetensors file: {error}", where=str(path), fix=fix) from error
