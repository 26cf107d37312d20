"""The wheel of this very version, made from the installed files, and the versions beside it, for machines without dbr.

Both lie in the home under their own digests: complete or absent, written once, the same for every launch of a version.
A launched machine is told the digests by who launches it and not by the home, and installs nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

import dreambooth_resume
from dreambooth_resume.errors import BadInput
from dreambooth_resume.launch.base import Package
from dreambooth_resume.runs.home import PACKAGES_PREFIX
from dreambooth_resume.storage.base import Storage

NAME = "dreambooth-resume"
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file knows: the same files are the same bytes
_FILE_MODE = 0o100644 << 16


def store_package(storage: Storage, *, extras: tuple[str, ...] = ()) -> Package:
    """Put wheel and constraints into the home, unless they are there. `extras` are what the options ask for, too."""
    package, wheel, constraints = _made(extras)
    storage.put_if_absent(package.wheel_key, wheel)
    storage.put_if_absent(package.constraints_key, constraints)
    return package


def describe_package(*, extras: tuple[str, ...] = ()) -> Package:
    """What `store_package` would put into a home, which is made and not stored."""
    return _made(extras)[0]


def _made(extras: tuple[str, ...]) -> tuple[Package, bytes, bytes]:
    """The package, its wheel and its constraints."""
    wheel_name, wheel = make_wheel()
    constraints = make_constraints(extras=extras).encode()
    wheel_sha256, constraints_sha256 = (hashlib.sha256(body).hexdigest() for body in (wheel, constraints))
    package = Package(
        wheel_key=f"{PACKAGES_PREFIX}{wheel_sha256}/{wheel_name}",
        wheel_sha256=wheel_sha256,
        constraints_key=f"{PACKAGES_PREFIX}{constraints_sha256}/constraints.txt",
        constraints_sha256=constraints_sha256,
        extras=extras,
    )
    return package, wheel, constraints


def installed_version() -> str:
    """The version that runs here. Raises BadInput where dbr was not installed by pip."""
    return _installed().version


def make_wheel() -> tuple[str, bytes]:
    """The wheel's file name and its bytes. Raises BadInput where dbr was not installed by pip."""
    installed = _installed()
    stem = f"{NAME.replace('-', '_')}-{installed.version}"
    info = f"{stem}.dist-info"
    root = Path(dreambooth_resume.__file__).parent
    members = {f"{root.name}/{path.relative_to(root).as_posix()}": path.read_bytes() for path in _files(root)}
    members[f"{info}/METADATA"] = (installed.read_text("METADATA") or installed.read_text("PKG-INFO") or "").encode()
    members[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: dbr\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    members[f"{info}/entry_points.txt"] = (installed.read_text("entry_points.txt") or "").encode()
    lines = [f"{name},sha256={_record_digest(body)},{len(body)}" for name, body in sorted(members.items())]
    members[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, body in sorted(members.items()):
            member = zipfile.ZipInfo(name, date_time=_FIRST_DATE)
            member.external_attr, member.compress_type = _FILE_MODE, zipfile.ZIP_DEFLATED
            archive.writestr(member, body)
    return f"{stem}-py3-none-any.whl", out.getvalue()


def make_constraints(*, extras: tuple[str, ...] = ()) -> str:
    """`name==version` of everything that dbr needs here, so that the machine computes with the same versions.

    What a GPU build of torch brings along is not among it where this machine has the CPU build; and a local part of a
    version (`+cpu`) is left out, since each machine has its own.
    """
    environment = {str(name): str(value) for name, value in default_environment().items()}
    found: dict[str, str] = {}
    waiting = [(NAME, frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            one = distribution(name)
        except PackageNotFoundError:
            continue
        found[one.metadata["Name"].lower().replace("_", "-")] = one.version.partition("+")[0]
        for requirement in map(Requirement, one.requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in ("", *wanted)):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    found.pop(NAME, None)
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()))


def _files(root: Path) -> Iterator[Path]:
    """All files of the package; in a source tree ui/, configs/ and infra/ are links, and are followed."""
    for path in sorted(root.iterdir()):
        if path.name == "__pycache__" or path.suffix == ".pyc":
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.is_file():
            yield path


def _installed() -> Distribution:
    try:
        return distribution(NAME)
    except PackageNotFoundError as error:
        raise BadInput(
            "runs from a source tree, and other machines need it as a package", where="dbr", fix="pip install -e ."
        ) from error


def _record_digest(body: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
