"""What holds for every test: no network, one thread a process, nobody's caches touched, and marks by folder."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
QUICK_FOLDERS = ("unit", "contracts")

# A hundred processes would compile the package anew, each for itself.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# While modules are imported and tests collected hardly anything becomes garbage, and looking for it takes long.
gc.disable()

# Set before any test module imports a library, and inherited by every process that a test starts. One thread: two
# xdist workers share two cores, and a forked child of a process that ran an operation with two threads hangs (libgomp).
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    MPLBACKEND="Agg",
    # The metadata services of the clouds: nobody listens there, so nothing outside this machine is asked.
    AWS_EC2_METADATA_SERVICE_ENDPOINT="http://127.0.0.1:9",
    GCE_METADATA_HOST="127.0.0.1:9",
    DBR_AZURE_METADATA_URL="http://127.0.0.1:9",
    # Beside pytest's own cache: the font list takes seconds to make and is the same for every test.
    MPLCONFIGDIR=str(TESTS.parent / ".pytest_cache" / "matplotlib"),
)


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Per-user caches (digests of model files) and notes of launches go to temporary folders, here and in children."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        # The developer's own web hook is nobody to be told of tests.
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.delenv("DBR_NOTIFY", raising=False)
        yield


def pytest_collection_finish() -> None:
    """Whatever there is by now stays: a collection in a test need not look at every object of every module again."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests under unit/ and contracts/ are quick unless marked slow."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if folder in QUICK_FOLDERS and item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.quick)


def _require_real() -> bool:
    return os.environ.get("DBR_REQUIRE_REAL") == "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything must be there, a `real` test that skips has failed."""
    report = yield
    if _require_real() and report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("real"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"DBR_REQUIRE_REAL=1, and this real component is missing: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A whole module that skips itself (importorskip) can hide no component either."""
    report = yield
    if _require_real() and report.outcome == "skipped":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"DBR_REQUIRE_REAL=1, and this module skipped itself: {reason}"
    return report
