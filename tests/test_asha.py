"""What the scheduler records and decides, without a cluster: trials and reports are made up."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
from examples import drawn, session
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from mnist_tune import ledger
from mnist_tune.asha import Asha, replay
from mnist_tune.errors import SearchError
from mnist_tune.ledger import Event
from mnist_tune.results import fold
from mnist_tune.rungs import Promotion, Rungs, milestones

NAN, INF = float("nan"), float("inf")
MAX_EPOCHS, GRACE, ETA = 9, 1, 2


class Trials(dict[int, Any]):
    """Trials as Ray hands them to a scheduler, running."""

    def __missing__(self, number: int) -> Any:
        trial = SimpleNamespace(config={"trial": number}, status=Trial.RUNNING, error_file=None)
        return self.setdefault(number, trial)


def empty_rungs() -> Rungs:
    return Rungs(milestones(MAX_EPOCHS, GRACE, ETA), MAX_EPOCHS, ETA)


def result(epoch: int, accuracy: float = 0.5, loss: float = 1.0) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "accuracy": accuracy,
        "loss": loss,
        "epoch_s": 0.5,
        "hostname": "host",
        "pid": 7,
        "node": "node-1",
        "training_iteration": 99,
    }


def go_on(asha: Asha, trial: Any, reported: dict[str, Any]) -> bool:
    decision = asha.on_trial_result(None, trial, reported)
    assert decision in {TrialScheduler.CONTINUE, TrialScheduler.STOP}
    return decision == TrialScheduler.CONTINUE


def without_time(event: Event) -> Event:
    assert isinstance(event["time"], float)
    return {name: value for name, value in event.items() if name != "time"}


def test_a_report_is_recorded_with_its_decision() -> None:
    events: list[Event] = []
    asha = Asha(empty_rungs(), "accuracy", {}, events.append)
    assert go_on(asha, Trials()[3], result(1, 0.9, 0.25))
    assert not go_on(asha, Trials()[4], result(1, 0.8, 0.5))
    assert [without_time(event) for event in events] == [
        {
            "event": "report",
            "trial": 3,
            "epoch": 1,
            "accuracy": 0.9,
            "loss": 0.25,
            "epoch_s": 0.5,
            "worker": "host:7",
            "node": "node-1",
            "decision": "continue",
            "reason": "",
        },
        {
            "event": "report",
            "trial": 4,
            "epoch": 1,
            "accuracy": 0.8,
            "loss": 0.5,
            "epoch_s": 0.5,
            "worker": "host:7",
            "node": "node-1",
            "decision": "stop",
            "reason": "rung 1: rank 2 of 2, best 1 go on",
        },
    ]


def test_a_trial_that_pauses_has_ended_for_ray() -> None:
    events: list[Event] = []
    rungs = Rungs((1,), 3, 2, "promotion")
    asha = Asha(rungs, "accuracy", {}, events.append)
    for trial in range(2):
        assert not go_on(asha, Trials()[trial], result(1, 0.9 - trial / 10))
    assert [(event["decision"], event["reason"]) for event in events] == [
        ("pause", "rung 1: rank 1 of 1, best 0 go on"),
        ("pause", "rung 1: rank 2 of 2, best 1 go on"),
    ]
    rungs.promote(Promotion(0, 1))
    # It sends its last report again.
    assert [go_on(asha, Trials()[0], result(epoch)) for epoch in (1, 2, 3)] == [True, True, False]
    assert [event["decision"] for event in events[2:]] == ["continue", "stop"]


def test_the_metric_is_what_decides() -> None:
    by_accuracy = Asha(empty_rungs(), "accuracy", {}, lambda _: None)
    by_loss = Asha(empty_rungs(), "loss", {}, lambda _: None)
    for asha, second_goes_on in ((by_accuracy, False), (by_loss, True)):
        assert go_on(asha, Trials()[0], result(1, 0.9, 0.5))
        assert go_on(asha, Trials()[1], result(1, 0.1, 0.4)) == second_goes_on


def test_the_clock_is_the_epoch() -> None:
    asha = Asha(Rungs((), 3, 3), "accuracy", {}, lambda _: None)
    assert [go_on(asha, Trials()[0], result(epoch)) for epoch in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize(("accuracy", "loss"), [(0.098, NAN), (0.098, INF), (NAN, 1.0)])
def test_what_is_not_finite_stops_at_once(accuracy: float, loss: float) -> None:
    events: list[Event] = []
    asha = Asha(Rungs((), 3, 3), "accuracy", {}, events.append)
    assert not go_on(asha, Trials()[0], result(1, accuracy, loss))
    assert (events[0]["decision"], events[0]["reason"]) == ("stop", "not finite")


def test_a_known_epoch_is_ignored() -> None:
    events: list[Event] = []
    rungs = empty_rungs()
    asha = Asha(rungs, "accuracy", {0: 4}, events.append)
    for epoch in (3, 4):
        assert go_on(asha, Trials()[0], result(epoch, NAN))
    assert events == []
    assert rungs.entries == empty_rungs().entries
    assert go_on(asha, Trials()[0], result(5))
    assert go_on(asha, Trials()[0], result(5))
    assert [event["epoch"] for event in events] == [5]


@pytest.mark.parametrize("name", ["epoch", "accuracy", "loss", "epoch_s"])
@pytest.mark.parametrize("value", [None, "0.5", "missing"])
def test_a_report_without_a_number_it_needs_is_refused(name: str, value: Any) -> None:
    events: list[Event] = []
    rungs = empty_rungs()
    reported = {**result(1), name: value}
    if value == "missing":
        del reported[name]
    with pytest.raises(SearchError, match=f"its report lacks a number: {name}$"):
        Asha(rungs, "accuracy", {}, events.append).on_trial_result(None, Trials()[0], reported)
    assert events == []
    assert rungs.entries == empty_rungs().entries


def test_all_that_a_report_lacks_is_named() -> None:
    with pytest.raises(SearchError, match="lacks a number: epoch, accuracy, loss, epoch_s"):
        Asha(empty_rungs(), "loss", {}, lambda _: None).on_trial_result(None, Trials()[0], {})


def test_a_decision_waits_for_its_record() -> None:
    def full(_: Event) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        go_on(Asha(empty_rungs(), "accuracy", {}, full), Trials()[0], result(1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Failure # 1\nTraceback\n  File\nValueError: it's wrong\n\n", "ValueError: it's wrong"),
        (b"Failure # 1\nKeyError: 1\nFailure # 2\n  RuntimeError: 2 \n", "RuntimeError: 2"),
        (b"ValueError: \xff\n", "ValueError: \ufffd"),
        (b"\n", "unknown error"),
        (b"", "unknown error"),
        (None, "unknown error"),
    ],
)
def test_an_error_is_recorded_by_its_last_line(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    trial, events = Trials()[2], list[Event]()
    trial.error_file = str(tmp_path / "error.txt")
    if content is not None:
        (tmp_path / "error.txt").write_bytes(content)
    rungs = empty_rungs()
    Asha(rungs, "accuracy", {}, events.append).on_trial_error(None, trial)
    assert [without_time(event) for event in events] == [
        {"event": "error", "trial": 2, "message": message}
    ]
    assert rungs.entries[0] == {2: -INF}


def test_an_error_before_there_is_a_file() -> None:
    events: list[Event] = []
    Asha(empty_rungs(), "accuracy", {}, events.append).on_trial_error(None, Trials()[0])
    assert events[0]["message"] == "unknown error"


def test_a_trial_that_is_started_again_has_not_failed() -> None:
    events: list[Event] = []
    rungs = empty_rungs()
    asha = Asha(rungs, "accuracy", {}, events.append)
    trial = Trials()[0]
    go_on(asha, trial, result(1))
    trial.status = Trial.ERROR
    asha.on_trial_error(None, trial)
    assert [event["event"] for event in events] == ["report"]
    assert rungs.entries[:2] == [{0: 0.5}, {}]


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_it_can_be_pickled_with_a_record_that_cannot(pickler: Any, tmp_path: Path) -> None:
    with (tmp_path / "ledger").open("w") as file:
        asha = Asha(empty_rungs(), "accuracy", {}, lambda event: file.write(str(event)))
        assert type(pickle.loads(pickler.dumps(asha))) is FIFOScheduler


# A trial's number, then what happens to it next.
STEPS = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.sampled_from([0.1, 0.5, 0.5, 0.9, NAN, "again", "retried", "failed"]) | st.floats(0, 1),
    ),
    min_size=1,
    max_size=60,
)


def live_through(steps: list[tuple[int, Any]], asha: Asha, epochs: dict[int, int]) -> None:
    """Plays what happens to trials as Ray would: nothing more happens to one that has ended."""
    trials, ended = Trials(), set()
    for number, what in steps:
        if number in ended:
            continue
        trial = trials[number]
        if what == "failed":
            asha.on_trial_error(None, trial)
            ended.add(number)
        elif what == "retried":
            trial.status = Trial.ERROR
            asha.on_trial_error(None, trial)
            trial.status = Trial.RUNNING
        elif what == "again":
            if number in epochs:
                assert go_on(asha, trial, result(epochs[number], 0.7))
        else:
            epochs[number] = epochs.get(number, 0) + 1
            if not go_on(asha, trial, result(epochs[number], what, 1 - what)):
                ended.add(number)


@settings(max_examples=200, deadline=None)
@given(steps=STEPS, metric=st.sampled_from(["accuracy", "loss"]))
def test_replaying_a_ledger_is_living_through_it(
    steps: list[tuple[int, Any]], metric: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "replayed-ledger"
    path.unlink(missing_ok=True)
    ledger.append(path, [*(drawn(number) for number in range(7)), session()])
    rungs, epochs = empty_rungs(), dict[int, int]()
    live_through(steps, Asha(rungs, metric, {}, lambda e: ledger.append(path, [e])), epochs)

    events = ledger.read(path)
    replayed = empty_rungs()
    assert replay(replayed, metric, events) == epochs
    assert replayed == rungs
    assert [list(entries.items()) for entries in replayed.entries] == [
        list(entries.items()) for entries in rungs.entries
    ]
    assert {t.number: t.epochs for t in fold(metric, events).trials if t.reports} == epochs


@settings(max_examples=100, deadline=None)
@given(steps=STEPS, data=st.data())
def test_a_search_cut_in_two_decides_as_a_whole_one(
    steps: list[tuple[int, Any]], data: st.DataObject
) -> None:
    whole: list[Event] = []
    live_through(steps, Asha(empty_rungs(), "accuracy", {}, whole.append), {})

    first: list[Event] = []
    cut = data.draw(st.integers(0, len(steps)))
    live_through(steps[:cut], Asha(empty_rungs(), "accuracy", {}, first.append), {})
    second = list(first)
    rungs = empty_rungs()
    epochs = replay(rungs, "accuracy", first)
    ended = {e["trial"] for e in first if e.get("decision") == "stop" or e["event"] == "error"}
    rest = [step for step in steps[cut:] if step[0] not in ended]
    live_through(rest, Asha(rungs, "accuracy", epochs, second.append), dict(epochs))
    assert [repr(without_time(e)) for e in second] == [repr(without_time(e)) for e in whole]


def test_replaying_ignores_what_is_not_a_report_and_epochs_that_are_known() -> None:
    def report(epoch: int, accuracy: float | None) -> Event:
        return {"event": "report", "trial": 0, "epoch": epoch, "accuracy": accuracy, "loss": 1.0}

    rungs = empty_rungs()
    events = [drawn(0), session(), report(1, 0.5), report(2, 0.6), report(1, None)]
    assert replay(rungs, "accuracy", events) == {0: 2}
    assert rungs.entries[:2] == [{0: 0.5}, {0: 0.6}]
