"""Names that are known and not available yet: refused with what they are, never ignored.

The first table holds what Diffusers' SDXL script takes and we do not yet, the second what newer scripts of theirs
take, and names that are kept for later releases. A name moves from here into the schema when it works.
"""

from __future__ import annotations

DIFFUSERS_SCRIPT: dict[str, str] = {}

LATER: dict[str, str] = {}

NOT_YET: dict[str, str] = DIFFUSERS_SCRIPT | LATER
