"""The launches that this user made from this machine, for `dbr launch list`. A hint: the homes say what is true."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from dreambooth_resume.launch.base import Job, Purpose
from dreambooth_resume.launch.state_folder import launch_folder, state_folder, write_whole
from dreambooth_resume.storage.s3_address import S3Settings

_ENTRY = "launch.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One launch, as it was when it was made."""

    launch_id: str
    home: str
    launcher: str
    job: Job
    launched_at: str
    """ISO 8601, UTC."""
    s3: S3Settings
    purpose: Purpose


def remember(launch_id: str, *, home: str, launcher: str, job: Job, s3: S3Settings, purpose: Purpose = "train") -> None:
    """Note a launch. Raises OSError where nothing can be written."""
    facts = {
        "home": home,
        "launcher": launcher,
        "purpose": purpose,
        "job": job.name,
        "job_values": dict(job.values),
        "launched_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "s3": {"endpoint_url": s3.endpoint_url, "region": s3.region, "path_style": s3.path_style},
    }
    write_whole(launch_folder(launch_id) / _ENTRY, json.dumps(facts, indent=1).encode())


def read_ledger() -> tuple[LedgerEntry, ...]:
    """All that can be read, oldest first."""
    found: list[LedgerEntry] = []
    for path in (state_folder() / "launches").glob(f"*/{_ENTRY}"):
        try:
            facts = json.loads(path.read_bytes())
            found.append(
                LedgerEntry(
                    launch_id=path.parent.name,
                    home=facts["home"],
                    launcher=facts["launcher"],
                    job=Job(name=facts["job"], values=facts["job_values"]),
                    launched_at=facts["launched_at"],
                    s3=S3Settings(**facts["s3"]),
                    # Earlier releases launched trainings alone, and did not say so.
                    purpose=facts.get("purpose", "train"),
                )
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return tuple(sorted(found, key=lambda entry: (entry.launched_at, entry.launch_id)))
