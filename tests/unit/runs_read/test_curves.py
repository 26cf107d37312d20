"""The stitched curve holds each step of the run once, as the attempt measured it that the run stands on."""

from __future__ import annotations

from dreambooth_resume.runs.curves import Curve, read_curve
from dreambooth_resume.runs.entries import Stopped
from dreambooth_resume.runs.holder import this_process
from dreambooth_resume.runs.home import metrics_key
from tests.fakes.memory_storage import MemoryStorage
from tests.fakes.toy_run import begin, state_of
from tests.fakes.watched_run import beat, hold, measure


def steps_of(curve: Curve) -> list[tuple[int, int]]:
    return [(point.step, point.attempt) for point in curve.points]


def lost_of(curve: Curve) -> list[list[tuple[int, int]]]:
    return [[(point.step, point.attempt) for point in part] for part in curve.lost]


def test_a_run_without_metrics_has_an_empty_curve() -> None:
    curve = read_curve(MemoryStorage())
    assert (curve.points, curve.lost, curve.spans, curve.interruptions) == ((), (), (), ())


def test_steps_trained_twice_count_once_and_the_first_time_is_lost() -> None:
    storage = MemoryStorage()
    begin(storage, "A").commit(2)
    measure(storage, 1, {1: 0.5, 2: 0.4, 3: 0.3})
    beat(storage, 1, step=3)
    begin(storage, "B").train_to_the_end()
    measure(storage, 2, {3: 0.3, 4: 0.2})
    curve = read_curve(storage)
    assert steps_of(curve) == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert lost_of(curve) == [[(3, 1)]]
    (cut,) = curve.interruptions
    assert (cut.attempt, cut.reached_step, cut.resumed_step, cut.exit_code) == (1, 3, 2, None)
    assert [(span.base_step, span.reached_step) for span in curve.spans] == [(0, 3), (2, 4)]


def test_metrics_that_came_further_than_the_heartbeat_are_believed() -> None:
    storage = MemoryStorage()
    begin(storage, "A").commit(1)
    measure(storage, 1, {1: 0.5, 2: 0.4, 3: 0.3})
    beat(storage, 1, step=2)
    begin(storage, "B")
    assert read_curve(storage).interruptions[0].reached_step == 3


def test_a_return_outside_of_the_line_takes_that_lines_steps() -> None:
    storage = MemoryStorage()
    first = begin(storage, "A", steps=10)
    for step in (2, 4):
        first.commit(step)
    first.stop()
    measure(storage, 1, {step: float(step) for step in range(1, 5)})
    second = begin(storage, "B", resume="2", steps=10)
    second.commit(3)
    second.stop()
    measure(storage, 2, {3: 33.0})
    assert steps_of(read_curve(storage)) == [(1, 1), (2, 1), (3, 2)]
    begin(storage, "C", resume="checkpoint-4", steps=10)
    measure(storage, 3, {5: 5.0})
    curve = read_curve(storage)
    assert steps_of(curve) == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 3)]
    assert lost_of(curve) == [[(3, 2)]]


def test_steps_that_an_attempt_took_over_staged_are_those_of_the_attempt_before() -> None:
    storage = MemoryStorage()
    begin(storage, "A").commit(1)
    measure(storage, 1, {1: 0.5, 2: 0.4, 3: 0.3})
    second = begin(storage, "B")
    second.committer.commit(state_of(3), "staged by attempt 1")
    measure(storage, 2, {4: 0.2})
    curve = read_curve(storage)
    assert steps_of(curve) == [(1, 1), (2, 1), (3, 1), (4, 2)]
    assert curve.lost == ()


def test_segments_are_joined_also_where_the_first_is_another_attempts() -> None:
    storage = MemoryStorage()
    first = begin(storage, "A", steps=3000)
    first.commit(990)
    measure(storage, 1, dict.fromkeys(range(1, 1011), 1.0))
    beat(storage, 1, step=1010)
    second = begin(storage, "B", steps=3000)
    second.committer.commit(state_of(1010), "staged by attempt 1")
    measure(storage, 2, dict.fromkeys(range(1011, 2500), 2.0))
    curve = read_curve(storage)
    assert [point.step for point in curve.points] == list(range(1, 2500))
    assert {point.attempt for point in curve.points if point.step > 1010} == {2}


def test_torn_and_foreign_lines_leave_a_hole_and_nothing_else() -> None:
    storage = MemoryStorage()
    begin(storage).commit(4)
    lines = ['{"step": 1, "loss": 0.5}', '{"step": 2, "lo', "[]", "", '{"loss": 1}', "4"]
    lines.append('{"step": 4, "loss": NaN, "learning_rate": 0.1}')
    storage.objects[metrics_key(1, 1)] = "\n".join(lines).encode()
    storage.objects["metrics/notes.txt"] = b"mine"
    curve = read_curve(storage)
    assert [point.step for point in curve.points] == [1, 4]
    assert curve.points[1].learning_rate == 0.1


def test_a_command_is_no_interruption_and_moves_the_point_of_resuming() -> None:
    storage = MemoryStorage()
    first = begin(storage)
    first.commit(1)
    first.commit(2)
    first.stop()
    writer = hold(storage, this_process())
    retire = Stopped(reason="delete", exit_code=0, retire=(3,))
    writer.append(lambda log: (retire, log.entries[-1].state))
    begin(storage, "B")
    curve = read_curve(storage)
    assert [span.attempt for span in curve.spans] == [1, 3]
    assert [(cut.attempt, cut.resumed_step) for cut in curve.interruptions] == [(1, 1)]
