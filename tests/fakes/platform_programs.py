"""`sky` and `kubectl` as programs on PATH: they keep their jobs in a file, note what they were given, refuse at will.

They take exactly the words that the real ones document (SkyPilot 0.14, kubectl 1.3x) and end with 2 at any other.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_PROGRAM = """\
#!{python} -IS
import json, os, re, sys
from pathlib import Path

FILE = Path({file!r})
STATE = json.loads(FILE.read_text())


def end(code, told=""):
    FILE.write_text(json.dumps(STATE))
    print(told, file=sys.stderr if code else sys.stdout)
    sys.exit(code)


def take(words, flags, with_value):
    found, rest = {{}}, []
    while words:
        word = words.pop(0)
        if word in with_value:
            found.setdefault(word, []).append(words.pop(0))
        elif word in flags:
            found[word] = [True]
        elif word.startswith("-") and word != "-":
            end(2, "No such option: " + word)
        else:
            rest.append(word)
    return found, rest


words = sys.argv[1:]
STATE["asked"].append(list(words))
if STATE["refuses"] and STATE["refuses"][0] in words:
    end(1, STATE["refuses"][1])
"""

_SKY = """\
what, verb, *words = words
assert what == "jobs"
if verb == "launch":
    found, files = take(words, ("-y", "-d"), ("-n", "--secret"))
    secrets = {name: os.environ[name] for name in found.get("--secret", ())}
    STATE["jobs"][found["-n"][0]] = {"status": "STARTING", "text": Path(files[0]).read_text(), "secrets": secrets}
    if STATE["breaks"]:
        end(1, "sky.exceptions.ResourcesUnavailableError: no zone has such a machine.")
    end(0, "Managed job ID: 1")
if verb == "queue":
    take(words, ("--all",), ("-o",))
    listed = [
        {"job_id": number, "job_name": name, "status": job["status"], "infra": "aws/eu-central-1", "recovery_count": 1}
        for number, (name, job) in enumerate(STATE["jobs"].items(), 1)
    ]
    end(0, "A new version of SkyPilot is available.\\n" + json.dumps(listed, indent=2))
found, _ = take(words, ("-y", "--follow", "--no-follow"), ("-n", "--tail"))
[name] = found["-n"]
if name not in STATE["jobs"]:
    end(1, "No running job found with name " + name)
if verb == "cancel":
    STATE["jobs"][name]["status"] = "CANCELLED"
    end(0)
if verb == "logs":
    end(0, "step 1\\nstep 2")
end(2, "No such command: " + verb)
"""

_KUBECTL = """\
found, words = take(words, (
    "--dry-run=server", "--ignore-not-found", "--wait=false", "--cascade=background", "--follow",
    "--pod-running-timeout=10m",
), ("-f", "-o", "--context", "--namespace"))
verb, *names = words
if verb == "create":
    text = sys.stdin.read() if found["-f"] == ["-"] else Path(found["-f"][0]).read_text()
    name = re.search(r"^  name: (\\S+)$", text, re.M).group(1)
    if "--dry-run=server" not in found:
        STATE["jobs"][name] = {"status": {"active": 1, "ready": 0}, "text": text}
        if STATE["breaks"]:
            end(1, "Unable to connect to the server: unexpected EOF")
    end(0, "job.batch/" + name + " created")
if verb == "get" and names[0] == "secret":
    end(*((0, "secret/" + names[1]) if names[1] in STATE["secrets"] else (1, 'Error from server (NotFound): secrets')))
name = names[-1].removeprefix("job/")
if name not in STATE["jobs"]:
    end(0) if "--ignore-not-found" in found else end(1, 'Error from server (NotFound): jobs.batch "' + name + '"')
if verb == "get":
    end(0, json.dumps({"status": STATE["jobs"][name]["status"]}))
if verb == "delete":
    del STATE["jobs"][name]
    end(0)
if verb == "logs":
    end(0, "step 1\\nstep 2")
end(2, "unknown command: " + verb)
"""


@dataclass(frozen=True, slots=True)
class FakeProgram:
    """One of them, by the file that it keeps its state in."""

    file: Path

    @property
    def jobs(self) -> dict[str, Any]:
        found = self._state()["jobs"]
        assert isinstance(found, dict)
        return found

    @property
    def asked(self) -> list[list[str]]:
        """The words of each call."""
        found = self._state()["asked"]
        assert isinstance(found, list)
        return found

    def set(self, **values: object) -> None:
        """`refuses`: a word of a call, and what is then said; `breaks`: a job is made, and then it fails; `jobs`."""
        self.file.write_text(json.dumps({**self._state(), **values}))

    def _state(self) -> dict[str, Any]:
        state = json.loads(self.file.read_text())
        assert isinstance(state, dict)
        return state


def fake_sky(folder: Path, patch: pytest.MonkeyPatch) -> FakeProgram:
    """`sky` on PATH."""
    return _installed("sky", _SKY, folder, patch)


def fake_kubectl(folder: Path, patch: pytest.MonkeyPatch) -> FakeProgram:
    """`kubectl` on PATH, of a cluster that has the Secret `dbr`."""
    return _installed("kubectl", _KUBECTL, folder, patch)


def without_programs(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Nothing at all is on PATH."""
    patch.setenv("PATH", str(folder / "nothing"))


def _installed(name: str, program: str, folder: Path, patch: pytest.MonkeyPatch) -> FakeProgram:
    place = folder / "bin"
    place.mkdir(parents=True, exist_ok=True)
    state = folder / f"{name}.json"
    state.write_text(json.dumps({"jobs": {}, "asked": [], "refuses": None, "breaks": False, "secrets": ["dbr"]}))
    (place / name).write_text(_PROGRAM.format(python=sys.executable, file=str(state)) + program)
    (place / name).chmod(0o755)
    patch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    return FakeProgram(state)
