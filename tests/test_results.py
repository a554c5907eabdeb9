"""What follows from a ledger: statuses, the best, the counts, the table."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pytest
from examples import drawn, end, error, paused, promote, report, session
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_tune.errors import ConfigError
from mnist_tune.ledger import Event
from mnist_tune.results import Results, fold, table, trial_id

NAN, INF = float("nan"), float("inf")

NUM_TRIALS = 4
# Few values, so that ties are common; None is how the ledger has what isn't finite.
METRICS = st.sampled_from([0.1, 0.5, 0.9, NAN, INF, None])


@st.composite
def ledgers(draw: st.DrawFn) -> list[Event]:
    """Events as drivers append them: in any interleaving, also of reports sent again."""
    events: list[Event] = [drawn(trial) for trial in range(NUM_TRIALS)]
    epochs = dict.fromkeys(range(NUM_TRIALS), 0)
    for _ in range(draw(st.integers(0, 30))):
        kind = draw(st.sampled_from(["report"] * 12 + ["again", "stop", "pause", "error", "end"]))
        if kind == "end":
            events += [end(draw(st.sampled_from(["interrupted", "time_budget"]))), session(3)]
            continue
        if not epochs:
            break
        trial = draw(st.sampled_from(sorted(epochs)))
        if kind == "error":
            events.append(error(trial))
            del epochs[trial]
            continue
        epochs[trial] += kind != "again"
        if kind == "pause":
            events.append(paused(trial, epochs[trial], draw(METRICS), draw(METRICS)))
            if draw(st.booleans()):
                events.append(promote(trial, epochs[trial]))
            else:
                del epochs[trial]
            continue
        reason = draw(st.sampled_from(["all epochs", "rung 1"])) if kind == "stop" else ""
        if epochs[trial]:
            events.append(
                report(trial, epochs[trial], draw(METRICS), draw(METRICS), reason, epoch_s=0.25)
            )
        if kind == "stop":
            del epochs[trial]
    return events


def comparable(results: Results) -> Any:
    """Everything in it; text, for NaN isn't equal to NaN."""
    return repr(results)


@settings(deadline=None)
@given(ledgers(), st.data())
def test_folding_a_part_and_then_the_rest_is_folding_all(events: list[Event], data: Any) -> None:
    results = fold("accuracy", events[: (cut := data.draw(st.integers(0, len(events))))])
    for event in events[cut:]:
        results.apply(event)
    assert comparable(results) == comparable(fold("accuracy", events))


@settings(deadline=None)
@given(ledgers(), st.sampled_from(["accuracy", "loss"]))
def test_the_best_is_that_of_a_search_through_all_reports(events: list[Event], metric: Any) -> None:
    results = fold(metric, events)
    candidates = [
        (-r.accuracy if metric == "accuracy" else r.loss, trial.number, r.epoch)
        for trial in results.trials
        for r in trial.reports
        if math.isfinite(r.accuracy) and math.isfinite(r.loss)
    ]
    if results.best is None:
        assert candidates == []
    else:
        trial, best = results.best
        assert (trial.number, best.epoch) == min(candidates)[1:]
        assert best == trial.best(metric)


@settings(deadline=None)
@given(ledgers())
def test_counts_add_up(events: list[Event]) -> None:
    results = fold("accuracy", events)
    counts = results.counts()
    assert counts.pop("total") == NUM_TRIALS == sum(counts.values())
    names = {"stopped": "stopped_early", "paused": "unfinished"}
    assert +Counter(counts) == Counter(names.get(t.status, t.status) for t in results.trials)
    assert results.epochs_trained == sum(len(trial.reports) for trial in results.trials)
    assert counts["unfinished"] == sum(not trial.finished for trial in results.trials)


@settings(deadline=None)
@given(ledgers())
def test_a_report_that_is_sent_again_changes_nothing(events: list[Event]) -> None:
    # The second copy is another measurement of the same epoch: the first stands.
    again = [
        copy
        for event in events
        for copy in (event, {**event, "accuracy": 1.0, "loss": 0.0})
        if copy is event or event["event"] == "report"
    ]
    assert comparable(fold("loss", again)) == comparable(fold("loss", events))


def test_statuses_and_reasons() -> None:
    results = fold(
        "accuracy",
        [
            *(drawn(trial) for trial in range(6)),
            report(0, 1),
            report(1, 1, stop="all epochs"),
            report(2, 1, stop="rung 1: rank 2 of 2, best 1 go on"),
            report(3, 1, 0.098, NAN, stop="not finite"),
            report(4, 1),
            error(4, "ValueError: no"),
        ],
    )
    assert [(t.status, t.reason, t.finished, t.epochs) for t in results.trials] == [
        ("unfinished", "", False, 1),
        ("completed", "", True, 1),
        ("stopped", "rung 1: rank 2 of 2, best 1 go on", True, 1),
        ("stopped", "not finite", True, 1),
        ("errored", "ValueError: no", True, 1),
        ("unfinished", "", False, 0),
    ]
    assert results.counts() == {
        "total": 6,
        "completed": 1,
        "stopped_early": 2,
        "errored": 1,
        "unfinished": 2,
    }


def paused_and_promoted() -> list[Event]:
    return [
        *(drawn(trial) for trial in range(5)),
        session(),
        *(paused(trial, 1, 0.1 * trial) for trial in range(4)),
        promote(3, 1),
        paused(3, 3, 0.9),
        promote(2, 1),
    ]


def test_a_trial_that_is_paused_is_not_finished() -> None:
    results = fold("accuracy", paused_and_promoted())
    reason = "rung 1: rank 1 of 1, best 0 go on"
    assert [(t.status, t.reason, t.finished) for t in results.trials] == [
        ("paused", reason, False),
        ("paused", reason, False),
        ("unfinished", "", False),
        ("paused", "rung 3: rank 1 of 1, best 0 go on", False),
        ("unfinished", "", False),
    ]
    assert results.to_run == 2
    assert results.counts()["unfinished"] == 5
    assert results.best is not None
    assert results.best.trial.number == 3
    assert [row["status"] for row in table(results)][2:4] == ["unfinished", "paused"]


@pytest.mark.parametrize(
    ("reason", "status"),
    [("done", "stopped"), ("time_budget", "paused"), ("interrupted", "paused")],
)
def test_what_is_paused_at_the_end_was_stopped_early(reason: str, status: str) -> None:
    events = [*paused_and_promoted(), report(2, 2), error(4), end(reason)]
    first = fold("accuracy", events).trials[0]
    assert (first.status, first.reason) == (status, "rung 1: rank 1 of 1, best 0 go on")
    assert fold("accuracy", events).counts()["stopped_early"] == (3 if reason == "done" else 0)


def test_settling_stops_what_is_paused_and_nothing_else() -> None:
    results = fold("accuracy", paused_and_promoted())
    results.settle()
    assert [t.status for t in results.trials] == [
        *("stopped", "stopped", "unfinished", "stopped", "unfinished")
    ]


def test_what_lanes_cost_is_added_up_over_drivers() -> None:
    results = fold("accuracy", [drawn(0), session(), end("interrupted", 1.0)])
    assert (results.lanes, results.epochs_wasted, results.compilations) == (1, 0, None)
    for wasted, compiled in ((2, 1), (3, 4)):
        results.apply({**session(), "lanes": 8})
        results.apply({**end("done", 1.0), "epochs_wasted": wasted, "compilations": compiled})
    assert (results.lanes, results.epochs_wasted, results.compilations) == (8, 5, 5)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_equal_trials_the_one_drawn_first_is_best(order: tuple[int, int]) -> None:
    results = fold("accuracy", [drawn(0), drawn(1), *(report(t, 1, 0.9) for t in order)])
    assert results.best is not None
    assert results.best.trial.number == 0


def test_of_equal_epochs_the_earlier_is_best() -> None:
    scores = [0.5, 0.9, 0.9]
    results = fold("accuracy", [drawn(0), *(report(0, i, s) for i, s in enumerate(scores, 1))])
    assert results.best is not None
    assert results.best.report.epoch == 2
    assert results.trials[0].best("accuracy") == results.best.report


def test_the_metric_says_what_is_best() -> None:
    events = [drawn(0), drawn(1), report(0, 1, 0.9, 0.5), report(1, 1, 0.8, 0.4)]
    assert [fold(m, events).best.trial.number for m in ("accuracy", "loss")] == [0, 1]  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize(("accuracy", "loss"), [(0.9, None), (None, 0.1), (0.9, NAN), (INF, 0.1)])
def test_what_is_not_finite_is_never_best(accuracy: Any, loss: Any) -> None:
    results = fold("accuracy", [drawn(0), report(0, 1, accuracy, loss)])
    assert results.best is None
    assert results.trials[0].best("accuracy") is None
    assert results.epochs_trained == 1


def test_how_drivers_ended() -> None:
    events = [drawn(0), session(), end("interrupted", 2.5)]
    results = fold("accuracy", events)
    assert (results.ended, results.wall_s, results.slots) == ("interrupted", 2.5, 2)
    results.apply(session(slots=3))
    assert (results.ended, results.wall_s, results.slots) == ("", 2.5, 3)
    results.apply(end("done", 4.0))
    assert (results.ended, results.wall_s) == ("done", 6.5)


def test_configs_are_completed() -> None:
    results = fold("accuracy", [{"event": "trial", "trial": 0, "config": {"beta": 0.5}}])
    assert results.trials[0].config == drawn(0, beta=0.5)["config"]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (drawn(1), "trial 1 where 2 must come"),
        (drawn(3), "trial 3 where 2 must come"),
        (report(2, 1), "trial 2 has not been drawn"),
        (report(-1, 1), "trial -1 has not been drawn"),
        (error(7), "trial 7 has not been drawn"),
        (promote(7, 1), "trial 7 has not been drawn"),
        (promote(1, 1), "trial 1 is promoted, but isn't paused"),
    ],
)
def test_events_that_cannot_be(event: Event, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fold("accuracy", [drawn(0), drawn(1), event])


def test_a_config_that_is_not_valid() -> None:
    event = {"event": "trial", "trial": 0, "config": {"beta": 2, "gamma": 1}}
    with pytest.raises(ConfigError, match="trial 00000: unknown hyperparameter 'gamma'") as caught:
        fold("accuracy", [event])
    assert "beta must be a number ≥ 0 and < 1; got 2" in str(caught.value)


def test_the_table() -> None:
    results = fold(
        "accuracy",
        [
            drawn(0, learning_rate=0.01),
            drawn(1),
            report(0, 1, 0.9, 0.5, epoch_s=0.1239),
            report(0, 2, 0.8, None, epoch_s=0.25, stop="not finite"),
        ],
    )
    first, second = table(results)
    assert list(first.items()) == [
        ("trial_id", "00000"),
        ("status", "stopped"),
        ("epochs", 2),
        ("best_epoch", 1),
        ("best_accuracy", 0.9),
        ("best_loss", 0.5),
        ("last_accuracy", 0.8),
        ("last_loss", None),
        ("seconds", 0.374),
        ("reason", "not finite"),
        *drawn(0, learning_rate=0.01)["config"].items(),
    ]
    assert list(second) == list(first)
    empty = {k: second[k] for k in ("best_epoch", "best_accuracy", "last_accuracy", "last_loss")}
    assert set(empty.values()) == {None}
    assert (second["status"], second["epochs"], second["seconds"]) == ("unfinished", 0, 0)


@settings(deadline=None)
@given(ledgers())
def test_the_table_can_be_json(events: list[Event]) -> None:
    rows = table(fold("accuracy", events))
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert {tuple(row) for row in rows} == {tuple(rows[0])}


def test_no_trials() -> None:
    results = fold("accuracy", [])
    assert table(results) == []
    assert results.best is None
    assert results.epochs_trained == 0


def test_trial_ids_sort_as_their_numbers() -> None:
    assert trial_id(7) == "00007"
    assert sorted(map(trial_id, range(0, 3000, 7))) == list(map(trial_id, range(0, 3000, 7)))
