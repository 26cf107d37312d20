"""Whatever is typed or written: options come out, or BadInput; never another exception."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dreambooth_resume.config.load import parse_train
from dreambooth_resume.config.messages import format_error
from dreambooth_resume.config.schema import OPTIONS
from dreambooth_resume.errors import BadInput

pytestmark = pytest.mark.quick

WORDS = st.one_of(
    st.sampled_from(
        [f"--{name}" for name in OPTIONS] + ["--resume", "--no-random_flip", "--", "-", "-h", "=", "--=", "---"]
    ),
    st.sampled_from(
        ["latest", "1e-4", "-1", "true", "none", "nan", "-inf", "1e999", "9" * 5000, "0x10", "½", "\x00", ""]
    ),
    st.builds("--{}={}".format, st.sampled_from(list(OPTIONS)), st.text(max_size=6)),
    st.text(max_size=8),
)
PLAIN = [
    "4",
    "1e-4",
    "yes",
    "~",
    "[1]",
    "{a: b}",
    "'x'",
    "2026-01-01",
    "2026-13-01",
    "12:30",
    "0o17",
    ".inf",
    "*a",
    "|",
]
TAGGED = [f"!!{tag} x" for tag in "int float bool null timestamp binary str seq map set omap pairs".split()]
SCALARS = st.sampled_from([*PLAIN, *TAGGED, "&a 4", "!!set {a}", "!!pairs [a]", "!!omap [a]", "!!int '-'"])
KEYS = st.sampled_from([*OPTIONS, "<<", "? a", "", "1", "lora"])
SOME = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _parsed_or_refused(argv: list[str]) -> None:
    message = ""
    try:
        parse_train(argv)
    except BadInput as error:
        message = format_error(error)
    assert len(message.splitlines()) <= 3  # what, fix, more


@SOME
@given(st.lists(WORDS, max_size=6))
def test_any_command_line(words: list[str]) -> None:
    _parsed_or_refused(words)


@SOME
@given(
    st.lists(
        st.tuples(st.sampled_from([*OPTIONS, "<<", "? a", "", "1", "lora"]), st.one_of(SCALARS, st.text(max_size=8)))
    )
)
def test_any_file(tmp_path: Path, lines: list[tuple[str, str]]) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes("".join(f"{key}: {value}\n" for key, value in lines).encode("utf-8", "surrogatepass"))
    _parsed_or_refused(["--config", str(path)])
