"""What an import has found out: values for our options, and what has to be said about the rest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from dreambooth_resume.config.messages import plain, shown
from dreambooth_resume.config.not_yet import NOT_YET
from dreambooth_resume.config.option import is_secret
from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.config.values import checked
from dreambooth_resume.errors import BadInput

_SECRET_WORDS = ("token", "key", "secret", "password")
_VARIABLE = re.compile(r"\$\w+|\$\{[^}]*\}|\$\(|`")


class About(StrEnum):
    """What a line of the report is about; the headings, in their order."""

    FILL_IN = "To fill in"
    OTHERWISE = "Means something else here"
    NOTHING = "Has no counterpart here"
    ANYWAY = "Is the default here anyway"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting as the other program has it. `theirs` is how it is written there: `--network_dim`, `network_dim`."""

    name: str
    value: object
    theirs: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """One line of the report: `--seed: the same seed gives other numbers here`."""

    about: About
    theirs: str
    text: str


class Findings:
    """Collects them. Nothing is raised for a value that can't be taken: it is said."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.origins: dict[str, str] = {}
        """Our name -> what it was made from."""
        self.remarks: list[Remark] = []

    def say(self, about: About, theirs: str, text: str) -> None:
        remark = Remark(about=about, theirs=_in_one_line(theirs), text=_in_one_line(text))
        if remark not in self.remarks:
            self.remarks.append(remark)

    def take(self, ours: str, value: object, *, theirs: str, otherwise: str | None = None) -> None:
        """`value` for the option `ours`, or a remark why not. `otherwise`: what differs about it here.

        A later value wins over an earlier one.
        """
        if ours in NOT_YET:
            self.say(About.NOTHING, theirs, f"not available yet: {NOT_YET[ours]}")
            return
        option = OPTIONS[ours]
        if is_secret(ours):
            instead = "set DBR_NOTIFY" if ours == "notify" else "type: hf auth login"
            self.say(About.OTHERWISE, theirs, f"not copied: a secret does not belong in a file; {instead}")
            return
        if isinstance(value, str) and _VARIABLE.search(value):
            self.say(About.FILL_IN, theirs, f"{ours} is {value}, a variable of the shell: write its value there")
            if option.kind == "text":
                self._set(ours, value, theirs)
            return
        try:
            found = checked(option, value, where=theirs)
        except BadInput as error:
            self.say(About.NOTHING, theirs, f"{ours}: {error.what}")
            return
        if otherwise:
            self.say(About.OTHERWISE, theirs, otherwise)
        if found == option.default and not option.required:
            self.values.pop(ours, None)
            self.say(About.ANYWAY, theirs, f"{ours}: {plain(found)}")
            return
        self._set(ours, found, theirs)

    def _set(self, ours: str, value: object, theirs: str) -> None:
        self.values[ours], self.origins[ours] = value, _in_one_line(theirs)

    def leave_out(self, setting: Setting, why: str) -> None:
        may_be_secret = any(word in setting.name for word in _SECRET_WORDS)
        told = "" if may_be_secret or setting.value is True else f" ({shown(setting.value)})"
        self.say(About.NOTHING, f"{setting.theirs}{told}", why)


def _in_one_line(text: str) -> str:
    """For a comment in YAML: what stood behind a line break would be an option there."""
    return " ".join(text.split())
