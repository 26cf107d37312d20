"""A web hook is told in its own form, with bounded patience, and its address is shown nowhere."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dreambooth_resume.config.load import parse_train, record, resolve
from dreambooth_resume.config.messages import format_error
from dreambooth_resume.errors import (
    AccessDenied,
    BadInput,
    BudgetSpent,
    DbrError,
    Fenced,
    HolderAlive,
    Interrupted,
    NothingValid,
    StoppedOnPurpose,
)
from dreambooth_resume.insight.notifier import QUEUE_LIMIT, Notifier
from dreambooth_resume.insight.stall import QUIET_SECONDS, STARTING_QUIET_SECONDS, UNSAVED_SECONDS, StallWatch
from dreambooth_resume.insight.webhook import Address, Answer, Event, NotSent, address_of, body_of, post
from dreambooth_resume.workflows.notify import kind_of, notify_address
from tests.fakes.web_hook import SECRET, FakeWebHook, running_web_hook

pytestmark = pytest.mark.quick

EVENT = Event(
    kind="interrupted", run="dog", home="s3://bucket/dog", text="dbr: dog & <cat>", host="here", step=7, exit_code=75
)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def hook() -> Iterator[FakeWebHook]:
    with running_web_hook() as running:
        yield running


@pytest.mark.parametrize(
    ("typed", "form"),
    [
        ("https://hooks.slack.com/services/T/B/x", "slack"),
        ("https://discord.com/api/webhooks/1/x", "discord"),
        ("https://discordapp.com/api/webhooks/1/x", "discord"),
        ("https://discord.com/api/webhooks/1/x/slack", "slack"),
        ("slack+https://mattermost.example/hooks/x", "slack"),
        ("discord+http://127.0.0.1:1/x", "discord"),
        ("https://example.org/hooks.slack.com", "json"),
        ("https://evil.example/?https://discord.com/api/webhooks/1", "json"),
    ],
)
def test_the_form_is_told_from_the_address(typed: str, form: str) -> None:
    address = address_of(typed)
    assert address.form == form
    assert address.url.startswith("http")
    assert "x" not in address.shown.removesuffix("example").removesuffix("example.org")


def test_slack_and_discord_get_text_that_calls_nobody_and_fits() -> None:
    assert json.loads(body_of(EVENT, "slack")) == {"text": "dbr: dog &amp; &lt;cat&gt;"}
    long = json.loads(body_of(replace(EVENT, text="@everyone " + "x" * 3000), "discord"))
    assert len(long["content"]) == 2000
    assert long["allowed_mentions"] == {"parse": []}


def test_others_get_facts_for_programs() -> None:
    facts = json.loads(body_of(EVENT, "json"))
    told = {"event": "interrupted", "run": "dog", "home": "s3://bucket/dog", "step": 7, "exit_code": 75, "host": "here"}
    assert facts.items() >= told.items()


def test_a_redirect_is_not_followed(hook: FakeWebHook) -> None:
    with running_web_hook() as elsewhere:
        hook.statuses, hook.headers = [307], {"Location": elsewhere.url}
        answer = post(address_of(hook.url), b"{}")
        assert (answer.status, answer.is_taken, elsewhere.bodies) == (307, False, [])


def test_who_is_not_there_or_does_not_answer_is_said_without_the_address(hook: FakeWebHook) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}/{SECRET}"
    with pytest.raises(NotSent, match="refused") as absent:
        post(address_of(nobody), b"{}")
    hook.delay_seconds = 5.0
    with pytest.raises(NotSent, match="no answer in time") as slow:
        post(address_of(hook.url), b"{}", timeout_seconds=0.1)
    for error in (absent.value, slow.value):
        assert SECRET not in str(error)
        assert error.__cause__ is None
        assert error.__suppress_context__


def deliver(address: Address, *, pauses: tuple[float, ...] = (0.01, 0.01)) -> tuple[list[str], list[float]]:
    """Send one message; what was told, and how long it paused."""
    told: list[str] = []
    slept: list[float] = []
    notifier = Notifier(address, tell=told.append, pauses_seconds=pauses, sleep=slept.append)
    notifier.start()
    notifier.put(lambda: EVENT)
    notifier.close(timeout_seconds=60.0)
    return told, slept


def test_a_busy_web_hook_is_asked_again_and_as_late_as_it_wishes(hook: FakeWebHook) -> None:
    hook.statuses, hook.headers = [503, 429], {"Retry-After": "7"}
    assert deliver(address_of(hook.url)) == ([], [7.0, 7.0])
    assert [body["event"] for body in hook.bodies] == ["interrupted"] * 3


def test_a_wish_to_wait_for_an_hour_is_not_granted(hook: FakeWebHook) -> None:
    hook.statuses, hook.headers = [429], {"Retry-After": "3600"}
    assert deliver(address_of(hook.url)) == ([], [30.0])


def test_a_refusal_is_said_once_and_not_asked_again(hook: FakeWebHook) -> None:
    hook.statuses = [404]
    told, slept = deliver(address_of(hook.url))
    assert slept == []
    assert len(hook.bodies) == 1
    assert told == ["--notify: 127.0.0.1 did not take the message `interrupted` (HTTP 404). Training is not affected."]


def test_tries_are_counted(hook: FakeWebHook) -> None:
    hook.statuses = [500] * 9
    told, slept = deliver(address_of(hook.url))
    assert (len(hook.bodies), slept) == (3, [0.01, 0.01])
    assert "HTTP 500" in told[0]
    assert SECRET not in told[0]


def test_a_web_hook_that_hangs_holds_up_neither_the_training_nor_its_end() -> None:
    hangs, told = threading.Event(), list[str]()

    def send(_address: Address, _body: bytes) -> Answer:
        hangs.wait(60.0)
        return Answer(status=200)

    notifier = Notifier(address_of(f"http://127.0.0.1:1/{SECRET}"), tell=told.append, send=send)
    notifier.start()
    for _ in range(3 * QUEUE_LIMIT):
        notifier.put(lambda: EVENT)  # returns, though nothing is ever sent
    notifier.close(timeout_seconds=0.05)
    assert "did not take the last message in time" in told[-1]
    hangs.set()


def test_a_message_that_can_not_be_made_costs_itself_alone(hook: FakeWebHook) -> None:
    told: list[str] = []
    notifier = Notifier(address_of(hook.url), tell=told.append)
    notifier.start()

    def fails() -> Event:
        raise RuntimeError(SECRET)

    notifier.put(fails)
    notifier.put(lambda: EVENT)
    notifier.close(timeout_seconds=60.0)
    assert told == ["--notify: a message could not be sent (RuntimeError). Training is not affected."]
    assert len(hook.bodies) == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Interrupted("x"), "interrupted"),
        (BudgetSpent("x"), "budget"),
        (StoppedOnPurpose("x"), None),
        (Fenced("x"), None),
        (HolderAlive("x"), None),
        (AccessDenied("x"), "failed"),
        (NothingValid("x"), "failed"),
        (BadInput("x"), "failed"),
        (ZeroDivisionError("x"), "failed"),
        (KeyboardInterrupt(), None),
        (DbrError("x"), "failed"),
    ],
)
def test_what_an_end_is_called(error: BaseException, kind: str | None) -> None:
    assert kind_of(error) == kind


def test_a_stall_is_said_once_until_the_training_gets_on() -> None:
    watch = StallWatch(0.0)
    assert watch.look(STARTING_QUIET_SECONDS - 1.0) is None
    assert "before its first step" in (watch.look(STARTING_QUIET_SECONDS) or "")
    assert watch.look(9e9) is None
    watch.step(1.0, 1, alarm=None)
    watch.step(3.0, 2, alarm=None)
    assert watch.look(3.0 + QUIET_SECONDS - 1.0) is None
    assert watch.look(3.0 + QUIET_SECONDS) == "nothing has moved for 10 minutes, after step 2"
    assert watch.look(3.0 + 2 * QUIET_SECONDS) is None
    watch.sign(5000.0)
    assert watch.look(5000.0 + QUIET_SECONDS) is not None


def test_long_steps_are_no_stall() -> None:
    watch = StallWatch(0.0)
    for number in range(3):
        watch.step(100.0 * number, number + 1, alarm=None)
    assert watch.look(200.0 + 19 * 100.0) is None
    assert watch.look(200.0 + 20 * 100.0) is not None


def test_saves_that_fail_for_long_are_a_stall() -> None:
    watch = StallWatch(0.0)
    for moment in (1.0, 2.0, UNSAVED_SECONDS + 2.0):
        watch.step(moment, int(moment), alarm="No space left on device.")
    assert "could be saved for 10 minutes: No space left" in (watch.look(UNSAVED_SECONDS + 2.0) or "")
    watch.step(UNSAVED_SECONDS + 3.0, 700, alarm=None)
    assert watch.look(UNSAVED_SECONDS + 4.0) is None


@pytest.mark.parametrize(
    "typed", [SECRET, f"ftp://{SECRET}/x", f"https:///{SECRET}", f"https://a b/{SECRET}", "https://[/" + SECRET]
)
@pytest.mark.parametrize("how", ["flag", "yaml", "variable", "file"])
def test_what_is_no_address_is_refused_and_not_shown(
    typed: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.yaml").write_text(f"notify: '{typed}'\n")
    if how == "variable":
        monkeypatch.setenv("DBR_NOTIFY", typed)
    if how == "file":
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        (tmp_path / "dbr").mkdir()
        (tmp_path / "dbr" / "notify").write_text(f"{typed}\n")
    words = {"flag": ["--notify", typed], "yaml": ["--config", str(tmp_path / "run.yaml")]}
    with pytest.raises(BadInput, match="no address of a web hook") as refusal:
        notify_address(parse_train(words.get(how, [])))
    assert SECRET not in format_error(refusal.value)


def test_an_address_is_neither_recorded_nor_shown() -> None:
    typed = f"https://hooks.slack.com/services/{SECRET}"
    given = parse_train(
        [
            "--pretrained_model_name_or_path",
            "m",
            "--instance_data_dir",
            "p",
            "--instance_prompt",
            "x",
            "--notify",
            typed,
        ]
    )
    options = resolve(given, recorded=None)
    assert options.reporting.notify == typed
    assert SECRET not in repr(options) + str(record(options)) + repr(notify_address(given))
