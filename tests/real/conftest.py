"""Ceph's radosgw, for `make test-real`: minutes, and packages that few machines have, so no other run collects this."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping

import pytest

from dreambooth_resume.storage.base import Storage
from dreambooth_resume.storage.s3 import S3Storage
from dreambooth_resume.storage.s3_address import S3Settings
from tests.fakes.s3_server import BUCKET, ENVIRONMENT
from tests.real.rgw import PACKAGES, Rgw, missing_programs, running_rgw
from tests.resume.conftest import bench, undisturbed  # noqa: F401  the same runs as with the S3 server of the suite
from tests.resume.s3_home import S3Home

collect_ignore_glob = [] if os.environ.get("DBR_TEST_REAL") == "1" else ["test_*.py"]


@pytest.fixture(scope="session")
def rgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rgw]:
    if missing := missing_programs():
        pytest.skip(f"{', '.join(missing)} not installed: apt-get install --no-install-recommends {PACKAGES}")
    with running_rgw(tmp_path_factory.mktemp("rgw")) as started, pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, **started.environment}.items():
            patch.setenv(name, value)
        import boto3

        boto3.client("s3", endpoint_url=started.url).create_bucket(Bucket=BUCKET)
        yield started


@pytest.fixture(scope="session")
def s3_environment(rgw: Rgw) -> Mapping[str, str]:
    return {**ENVIRONMENT, **rgw.environment}


@pytest.fixture(params=["http", "tls"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def endpoint(kind: str, rgw: Rgw) -> str:
    return rgw.url if kind == "http" else rgw.tls_url


@pytest.fixture
def s3_home(endpoint: str) -> S3Home:
    return S3Home.new(endpoint)


@pytest.fixture
def open_again(endpoint: str, s3_home: S3Home) -> Callable[[], Storage]:
    return lambda: S3Storage(s3_home.uri, S3Settings(endpoint_url=endpoint))


@pytest.fixture
def storage(open_again: Callable[[], Storage]) -> Storage:
    return open_again()
