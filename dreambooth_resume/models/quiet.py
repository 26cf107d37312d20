"""Libraries that talk and dawdle while they load, kept quiet and made quicker. Errors still come through."""

from __future__ import annotations

import gc
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_CHATTY = ("transformers", "diffusers", "huggingface_hub", "accelerate", "peft", "bitsandbytes")
# Objects made since the last look for garbage before Python looks again; its own number is 700.
_OBJECTS_BETWEEN_COLLECTIONS = 50_000


@contextmanager
def few_collections() -> Iterator[None]:
    """Import inside this: Python looks for garbage seldom.

    torch and its like make a million objects, which all stay; looking through them a thousand times costs half a
    second of a start.
    """
    usual = gc.get_threshold()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Import and load inside this: no progress bars, no advice about libraries that aren't needed, no warnings.

    Raised errors and what the libraries log as errors are untouched, and everything is as before afterwards.
    """
    # The libraries set their own levels when they are first imported, so importing comes before quieting.
    with few_collections():
        import diffusers.utils.logging as diffusers_logging
        import transformers.utils.logging as transformers_logging

    bars = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    levels = {name: logging.getLogger(name).level for name in _CHATTY}
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    for library in bars:
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings(), few_collections():
            warnings.simplefilter("ignore")
            yield
    finally:
        for library in bars:
            library.enable_progress_bar()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
