"""What each cloud says, as a notice with the time that is left; every source passes the same contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dreambooth_resume.preemption.aws import AwsSource
from dreambooth_resume.preemption.azure import AzureSource
from dreambooth_resume.preemption.gcp import GcpSource
from dreambooth_resume.preemption.metadata import MetadataTrouble
from dreambooth_resume.preemption.sources import CLOUDS, CloudSource, cloud_source
from dreambooth_resume.runs.notice import Notice
from tests.fakes.metadata_server import FakeMetadata, running_metadata

pytestmark = pytest.mark.quick

NOW = "Sat, 21 Nov 2026 08:00:00 GMT"
PREEMPT = {
    "EventId": "602d9444-d2cd-49c7-8624-8643e7171297",
    "EventType": "Preempt",
    "ResourceType": "VirtualMachine",
    "Resources": ["trainer-1"],
    "EventStatus": "Scheduled",
    "NotBefore": "Sat, 21 Nov 2026 08:00:40 GMT",
}


@pytest.fixture
def fake() -> Iterator[FakeMetadata]:
    with running_metadata(date=NOW) as fake:
        yield fake


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


MADE: dict[str, Callable[..., CloudSource]] = {
    "aws": AwsSource,
    "gcp": lambda **options: GcpSource(has_gpu=False, **options),
    "azure": AzureSource,
}
TAKEN_AWAY: dict[str, dict[str, Any]] = {
    "aws": {"spot_action": {"action": "terminate", "time": "2026-11-21T08:02:00Z"}},
    "gcp": {"preempted": True},
    "azure": {"azure_events": [PREEMPT]},
}
GIVEN_BACK: dict[str, dict[str, Any]] = {
    "aws": {"spot_action": None},
    "gcp": {"preempted": False},
    "azure": {"azure_events": []},
}
LEFT_SECONDS = {"aws": 120.0, "gcp": 30.0, "azure": 40.0}


def say(fake: FakeMetadata, said: dict[str, Any]) -> None:
    for name, value in said.items():
        setattr(fake, name, value)


@pytest.fixture(params=sorted(MADE))
def cloud(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(cloud: str, fake: FakeMetadata, clock: Clock) -> CloudSource:
    return MADE[cloud](base_url=fake.url, monotonic=clock)


# The contract of a cloud


def test_every_cloud_in_the_table_is_tested_here() -> None:
    assert CLOUDS.keys() == MADE.keys() == TAKEN_AWAY.keys()
    assert {cloud_source(name).name for name in CLOUDS} == set(CLOUDS)


def test_a_machine_that_stays_has_no_notice(source: CloudSource) -> None:
    assert source.look() is None


def test_a_machine_that_goes_has_a_notice_with_its_end_that_does_not_move(
    cloud: str, source: CloudSource, fake: FakeMetadata, clock: Clock
) -> None:
    assert source.look() is None
    say(fake, TAKEN_AWAY[cloud])
    notice = source.look()
    assert notice is not None
    assert notice.exit_code == 75
    assert notice.deadline_monotonic_s == 1000.0 + LEFT_SECONDS[cloud]
    clock.now += 3.0
    assert source.look() == notice


def test_a_notice_may_be_withdrawn_and_come_again(cloud: str, source: CloudSource, fake: FakeMetadata) -> None:
    say(fake, TAKEN_AWAY[cloud])
    assert source.look() is not None
    say(fake, GIVEN_BACK[cloud])
    assert source.look() is None
    say(fake, TAKEN_AWAY[cloud])
    assert source.look() is not None


def test_it_knows_its_own_cloud_and_no_other(cloud: str, source: CloudSource, fake: FakeMetadata) -> None:
    assert source.is_here(timeout_seconds=5.0)
    fake.clouds -= {cloud}
    elsewhere = MADE[cloud](base_url=fake.url)
    assert not elsewhere.is_here(timeout_seconds=5.0)


@pytest.mark.parametrize("trouble", [{"status": 500}, {"status": 429}, {"silent": True}])
def test_no_answer_is_trouble_and_no_notice(trouble: dict[str, Any], source: CloudSource, fake: FakeMetadata) -> None:
    say(fake, trouble)
    with pytest.raises(MetadataTrouble):
        source.look()


def test_nobody_listening_is_trouble(cloud: str) -> None:
    with pytest.raises(MetadataTrouble):
        MADE[cloud](base_url="http://127.0.0.1:9").look()


def test_a_proxy_in_the_environment_is_not_asked(
    cloud: str, source: CloudSource, fake: FakeMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    say(fake, TAKEN_AWAY[cloud])
    assert source.look() is not None


# AWS


def test_aws_reckons_with_the_services_clock(fake: FakeMetadata, clock: Clock) -> None:
    """The machine's own may be a day off, and then the notice would be over before it came."""
    fake.date = "Sat, 21 Nov 2026 08:01:30 GMT"
    say(fake, TAKEN_AWAY["aws"])
    notice = AwsSource(base_url=fake.url, monotonic=clock).look()
    assert notice is not None
    assert notice.deadline_monotonic_s == 1030.0
    assert notice.source == "AWS spot interruption (terminate at 08:02:00 UTC)"


def test_aws_token_that_ran_out_is_renewed(fake: FakeMetadata) -> None:
    source = AwsSource(base_url=fake.url)
    source.look()
    fake.expire_tokens()
    say(fake, TAKEN_AWAY["aws"])
    assert source.look() is not None
    assert fake.asked.count("PUT /latest/api/token") == 2


def test_aws_rebalance_is_advice_and_ends_nothing(fake: FakeMetadata) -> None:
    fake.rebalance = '{"noticeTime": "2026-11-21T08:00:00Z"}'
    notice = AwsSource(base_url=fake.url).look()
    assert notice == Notice(source="AWS rebalance recommendation", exit_code=75, is_advice=True)


def test_aws_hibernation_leaves_no_time_but_some_seconds(fake: FakeMetadata, clock: Clock) -> None:
    fake.spot_action = {"action": "hibernate", "time": "2026-11-21T08:00:00Z"}
    notice = AwsSource(base_url=fake.url, monotonic=clock).look()
    assert notice is not None
    assert notice.deadline_monotonic_s == 1005.0


def test_aws_auto_scaling_that_takes_the_instance_away_is_a_notice(fake: FakeMetadata, clock: Clock) -> None:
    fake.lifecycle = "Terminated"
    notice = AwsSource(base_url=fake.url, monotonic=clock).look()
    assert notice is not None
    assert "Auto Scaling" in notice.source
    assert notice.deadline_monotonic_s == 1030.0


@pytest.mark.parametrize("said", ["", "soon", "[]", '{"action": "stop"}', '{"action": "stop", "time": "soon"}'])
def test_aws_answer_that_makes_no_sense_is_trouble(said: str, fake: FakeMetadata) -> None:
    fake.spot_action = said
    with pytest.raises(MetadataTrouble, match="spot/instance-action says"):
        AwsSource(base_url=fake.url).look()


# GCP


@pytest.mark.parametrize(("has_gpu", "left_seconds"), [(False, 60.0), (True, 3300.0)])
def test_gcp_maintenance_that_ends_the_machine_comes_earlier_with_a_gpu(
    has_gpu: bool, left_seconds: float, fake: FakeMetadata, clock: Clock
) -> None:
    source = GcpSource(base_url=fake.url, has_gpu=has_gpu, monotonic=clock)
    fake.maintenance = "MIGRATE_ON_HOST_MAINTENANCE"
    assert source.look() is None
    fake.maintenance = "TERMINATE_ON_HOST_MAINTENANCE"
    notice = source.look()
    assert notice is not None
    assert notice.deadline_monotonic_s == 1000.0 + left_seconds


# Azure


def test_azure_events_of_other_machines_and_finished_ones_are_no_notice(fake: FakeMetadata) -> None:
    fake.azure_events = [
        {**PREEMPT, "Resources": ["trainer-2"]},
        {**PREEMPT, "EventStatus": "Completed"},
        {**PREEMPT, "EventStatus": "Canceled"},
        {**PREEMPT, "EventType": "Freeze"},
    ]
    assert AzureSource(base_url=fake.url).look() is None


def test_azure_event_that_has_begun_names_no_time_and_leaves_thirty_seconds(fake: FakeMetadata, clock: Clock) -> None:
    fake.azure_events = [{**PREEMPT, "EventStatus": "Started", "NotBefore": ""}]
    notice = AzureSource(base_url=fake.url, monotonic=clock).look()
    assert notice is not None
    assert notice.deadline_monotonic_s == 1030.0


def test_azure_takes_the_nearest_of_several_events(fake: FakeMetadata, clock: Clock) -> None:
    later = {**PREEMPT, "EventId": "b", "EventType": "Reboot", "NotBefore": "Sat, 21 Nov 2026 08:15:00 GMT"}
    fake.azure_events = [later, PREEMPT]
    notice = AzureSource(base_url=fake.url, monotonic=clock).look()
    assert notice is not None
    assert (notice.source, notice.deadline_monotonic_s) == ("Azure Preempt", 1040.0)


@pytest.mark.parametrize("events", [[{}], [{"EventType": "Preempt"}], ["Preempt"]])
def test_azure_answer_that_makes_no_sense_is_trouble(events: list[Any], fake: FakeMetadata) -> None:
    fake.azure_events = events
    with pytest.raises(MetadataTrouble, match="scheduledevents says"):
        AzureSource(base_url=fake.url).look()
