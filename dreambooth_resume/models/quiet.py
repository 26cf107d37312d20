"""Libraries that talk while they load, kept quiet. Errors still come through."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_CHATTY = ("transformers", "diffusers", "huggingface_hub", "accelerate", "peft")


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Import and load inside this: no progress bars, no advice about libraries that aren't needed, no warnings.

    Raised errors and what the libraries log as errors are untouched, and everything is as before afterwards.
    """
    # The libraries set their own levels when they are first imported, so importing comes before quieting.
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    bars = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    levels = {name: logging.getLogger(name).level for name in _CHATTY}
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    for library in bars:
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library in bars:
            library.enable_progress_bar()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
