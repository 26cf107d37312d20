"""One fork server a test worker; undisturbed runs are made once for each set of options."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from dreambooth_resume.models.tiny_pictures import draw_pictures
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.s3_server import ENVIRONMENT, S3Server, shared_server
from tests.resume.harness import Bench, ForkServer, Process, result_digests
from tests.resume.s3_home import S3Home

Undisturbed = Callable[..., dict[str, str]]


@pytest.fixture(scope="session")
def s3_environment() -> Mapping[str, str]:
    """What a run needs to be let in by the S3 server of these tests."""
    return ENVIRONMENT


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory, s3_environment: Mapping[str, str]) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("resume")
    server = ForkServer(s3_environment)
    # Built in a child: this process and the server have to stay free of tensor operations.
    answer = server.ask({"build_model": str(folder / "model"), "log": str(folder / "model.log")})
    pictures = folder / "pictures"
    for extra in draw_pictures(pictures)[3:]:
        extra.unlink()
    builder = Process(server, answer["pid"], folder / "model.log")
    assert builder.wait() == 0, builder.output()
    yield Bench(server=server, model=folder / "model", pictures=pictures, folder=folder)
    server.close()


@pytest.fixture(scope="session")
def undisturbed(bench: Bench) -> Undisturbed:
    """Digests of what an undisturbed run with these options leaves; each set of options is trained once."""
    known: dict[str, dict[str, str]] = {}

    def digests(**changed: object) -> dict[str, str]:
        key = json.dumps(changed, sort_keys=True, default=str)
        if key not in known:
            home = bench.folder / f"undisturbed-{len(known)}"
            bench.run(home, **changed)
            known[key] = result_digests(home)
        return known[key]

    return digests


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A server of this worker, and what it takes to speak to it from here and from every child."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield shared_server()


@pytest.fixture
def s3_home(s3_server: S3Server) -> S3Home:
    """A home in a bucket that nobody has used."""
    return S3Home.new(s3_server.url)


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    """A network on the way to the server in which anything can happen."""
    with FaultProxy(s3_server.port) as proxy:
        yield proxy


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"
