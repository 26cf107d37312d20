"""Options as they are typed behind a command of `dbr`."""

from __future__ import annotations

from dreambooth_resume.config.load import GivenOptions
from dreambooth_resume.workflows.home import S3_OPTIONS


def typed(name: str, value: object) -> tuple[str, str]:
    """An option of `dbr train`."""
    if value is None:
        return (f"--{name}", "none")
    return (f"--{name}", str(value).lower() if isinstance(value, bool) else str(value))


def home_words(home: str) -> tuple[str, ...]:
    """The option of `dbr train` that names this home."""
    return ("--storage_uri" if "://" in home else "--output_dir", home)


def s3_words(given: GivenOptions) -> tuple[str, ...]:
    """What `given` says of how S3 is reached, for commands that know no other option of `dbr train`."""
    words: list[str] = []
    for name, option in S3_OPTIONS.items():
        if (value := given.values.get(name)) is None:
            continue
        if option.kind != "bool":
            words.append(f"--{name}={value}")
        elif value:
            words.append(f"--{name}")
    return tuple(words)
