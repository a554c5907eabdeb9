"""ASHA, stopping and promotion, against implementations that are slow and obvious."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paper import Paper

from mnist_tune.rungs import Decision, Promotion, Rungs, milestones, score

NAN, INF = float("nan"), float("inf")


@dataclass
class Arrival:
    trial: int
    score: float


@dataclass
class Reference:
    """Algorithm 2 of the ASHA paper in its stopping form: at every rung, sort and count."""

    milestones: tuple[int, ...]
    max_epochs: int
    eta: int
    rungs: list[list[Arrival]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rungs = [[] for _ in self.milestones]

    def report(self, trial: int, epoch: int, value: float) -> bool:
        if value == -INF:
            self.fail(trial)
            return False
        for milestone, rung in zip(self.milestones, self.rungs, strict=True):
            if epoch < milestone or trial in [arrival.trial for arrival in rung]:
                continue
            rung.append(Arrival(trial, value))
            # Sorting is stable: of equals, the first to come stays before the others.
            best_first = sorted(rung, key=lambda arrival: arrival.score, reverse=True)
            go_on = [arrival.trial for arrival in best_first][: max(len(rung) // self.eta, 1)]
            if trial not in go_on:
                return False
        return epoch < self.max_epochs

    def fail(self, trial: int) -> None:
        reached = sum(trial in [arrival.trial for arrival in rung] for rung in self.rungs)
        for rung in self.rungs[: reached + 1]:
            if trial not in [arrival.trial for arrival in rung]:
                rung.append(Arrival(trial, -INF))
            for arrival in rung:
                if arrival.trial == trial:
                    arrival.score = -INF

    def entries(self) -> list[list[tuple[int, float]]]:
        return [[(arrival.trial, arrival.score) for arrival in rung] for rung in self.rungs]


Event = tuple[int, int, float | None]
"""Trial, epoch, score; None for a trial that fails for good."""


def compare(ladder: tuple[int, ...], max_epochs: int, eta: int, events: list[Event]) -> None:
    """Plays events to both; a trial that has failed is heard of no more."""
    ours, reference = Rungs(ladder, max_epochs, eta), Reference(ladder, max_epochs, eta)
    failed = set()
    for trial, epoch, value in events:
        if trial in failed:
            continue
        if value is None:
            ours.fail(trial)
            reference.fail(trial)
        else:
            decision = ours.report(trial, epoch, value)
            assert decision.go_on == reference.report(trial, epoch, value)
            assert bool(decision.reason) != decision.go_on
        if value in {None, -INF}:
            failed.add(trial)
        assert [list(entries.items()) for entries in ours.entries] == reference.entries()


# A few values, so that ties are common; trials and epochs come in any order, also twice.
SCORES = st.sampled_from([0.0, 0.098, 0.098, 0.5, 0.9, -INF]) | st.floats(0, 1)
EVENTS = st.lists(
    st.tuples(st.integers(0, 7), st.integers(1, 30), st.none() | SCORES), min_size=5, max_size=50
)


@settings(max_examples=400, deadline=None)
@given(events=EVENTS, grace=st.integers(1, 5), eta=st.integers(2, 4), max_epochs=st.integers(1, 30))
def test_any_stream_is_decided_as_by_the_reference(
    events: list[Event], grace: int, eta: int, max_epochs: int
) -> None:
    compare(milestones(max_epochs, grace, eta), max_epochs, eta, events)


@pytest.mark.parametrize("block", range(5))
def test_thousands_of_searches_are_decided_as_by_the_reference(block: int) -> None:
    for seed in range(1000 * block, 1000 * (block + 1)):
        rng = random.Random(seed)
        eta, grace, max_epochs = rng.randint(2, 4), rng.randint(1, 3), rng.randint(1, 30)
        epochs, events = dict.fromkeys(range(rng.randint(1, 15)), 0), []
        for _ in range(rng.randint(1, 80)):
            trial = rng.choice(list(epochs))
            # Mostly the next epoch; now and then one sent again, or one that was skipped.
            epochs[trial] = max(1, epochs[trial] + rng.choice([1, 1, 1, 1, 0, 4]))
            value = rng.choice([0.1, round(rng.random(), 1), rng.random()])
            value = rng.choices([value, -INF, None], [40, 1, 1])[0]
            events.append((trial, epochs[trial], value))
        compare(milestones(max_epochs, grace, eta), max_epochs, eta, events)


def compare_promotions(
    ladder: tuple[int, ...], max_epochs: int, eta: int, events: list[Event | str]
) -> None:
    """Plays events to both; ``promote`` is a slot that takes the next promotion."""
    ours, paper = Rungs(ladder, max_epochs, eta, "promotion"), Paper(ladder, max_epochs, eta)
    failed = set()
    for event in events:
        if isinstance(event, str):
            if job := paper.get_job():
                ours.promote(Promotion(job[0], ladder[job[1]]))
                paper.promote(job[1], job[0])
        elif event[0] not in failed:
            trial, epoch, value = event
            if value is None:
                ours.fail(trial)
                paper.fail(trial)
            else:
                go_on, reason, paused = ours.report(trial, epoch, value)
                word = "pause" if paused else "continue" if go_on else "stop"
                assert word == paper.report(trial, epoch, value)
                assert bool(reason) != go_on
            if value in {None, -INF}:
                failed.add(trial)
        assert [list(entries.items()) for entries in ours.entries] == paper.entries()
        assert ours.promoted == [set(promoted) for promoted in paper.promoted]
        job, found = paper.get_job(), ours.next_promotion()
        assert found == (job and (job[0], ladder[job[1]]))


@settings(max_examples=400, deadline=None)
@given(
    events=st.lists(
        st.just("promote")
        | st.tuples(st.integers(0, 7), st.integers(1, 30), st.none() | SCORES)
        | st.tuples(st.integers(0, 7), st.just(1), SCORES),
        min_size=5,
        max_size=50,
    ),
    grace=st.integers(1, 5),
    eta=st.integers(2, 4),
    max_epochs=st.integers(1, 30),
)
def test_any_stream_is_promoted_as_by_the_paper(
    events: list[Event | str], grace: int, eta: int, max_epochs: int
) -> None:
    compare_promotions(milestones(max_epochs, grace, eta), max_epochs, eta, events)


@pytest.mark.parametrize(
    ("max_epochs", "grace", "eta", "expected"),
    [
        (10, 1, 3, (1, 3, 9)),
        (243, 1, 3, (1, 3, 9, 27, 81)),
        (244, 1, 3, (1, 3, 9, 27, 81, 243)),
        (1000, 1, 10, (1, 10, 100)),
        (1001, 1, 10, (1, 10, 100, 1000)),
        (10, 2, 4, (2, 8)),
        (10, 10, 3, ()),
        (10, 11, 3, ()),
        (1, 1, 2, ()),
        (2, 1, 2, (1,)),
        (3**40 + 1, 3**38, 3, (3**38, 3**39, 3**40)),
    ],
)
def test_milestones(max_epochs: int, grace: int, eta: int, expected: tuple[int, ...]) -> None:
    assert milestones(max_epochs, grace, eta) == expected


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(2, 10))
def test_milestones_are_the_powers_below_the_end(max_epochs: int, grace: int, eta: int) -> None:
    found = milestones(max_epochs, grace, eta)
    assert found == tuple(grace * eta**i for i in range(len(found)))
    assert all(milestone < max_epochs for milestone in found)
    assert grace * eta ** len(found) >= max_epochs


def test_first_to_arrive_goes_on() -> None:
    rungs = Rungs((1, 3), 9, 3)
    assert rungs.report(0, 1, 0.01) == Decision(True, "")
    assert rungs.report(0, 3, 0.01) == Decision(True, "")


def test_trials_tied_at_chance_stop_but_for_the_first() -> None:
    rungs = Rungs((1,), 9, 3)
    assert [rungs.report(trial, 1, 0.098).go_on for trial in range(12)] == [True] + [False] * 11


def test_a_tie_at_the_cut_is_for_the_one_that_came_first() -> None:
    rungs = Rungs((1,), 9, 2)
    for trial, value in enumerate([0.9, 0.5, 0.1]):
        rungs.report(trial, 1, value)
    # Of four, two go on: the second place is held by the 0.5 that came before.
    assert not rungs.report(3, 1, 0.5).go_on
    assert rungs.report(4, 1, 0.6).go_on


def test_a_decision_says_which_rung_and_rank() -> None:
    rungs = Rungs((1,), 9, 3)
    for trial in range(6):
        rungs.report(trial, 1, 0.9 - trial / 10)
    assert rungs.report(6, 1, 0.85).reason == ""
    assert rungs.report(7, 1, 0.75).reason == "rung 1: rank 4 of 8, best 2 go on"


def test_recorded_once_a_rung_with_the_report_at_its_milestone() -> None:
    rungs = Rungs((1, 3), 9, 3)
    for epoch, value in enumerate([0.1, 0.2, 0.3, 0.4, 0.5], 1):
        rungs.report(7, epoch, value)
    assert rungs.entries == [{7: 0.1}, {7: 0.3}]


def test_a_report_past_milestones_is_recorded_in_each() -> None:
    rungs = Rungs((1, 3, 9), 27, 3)
    assert rungs.report(0, 5, 0.4).go_on
    assert rungs.entries == [{0: 0.4}, {0: 0.4}, {}]


def test_the_last_epoch_ends_a_trial() -> None:
    rungs = Rungs((1,), 3, 3)
    assert rungs.report(0, 2, 0.5) == Decision(True, "")
    assert rungs.report(0, 3, 0.5) == Decision(False, "all epochs")
    assert Rungs((), 3, 3).report(1, 4, 0.5) == Decision(False, "all epochs")


def test_without_rungs_nothing_is_stopped_early() -> None:
    rungs = Rungs((), 3, 3)
    for trial in range(5):
        assert rungs.report(trial, 1, -trial).go_on
        assert rungs.report(trial, 2, -trial).go_on


@pytest.mark.parametrize("value", [-INF, INF, NAN])
def test_what_is_not_finite_stops_and_counts_as_worst(value: float) -> None:
    rungs = Rungs((1, 3, 9), 27, 2)
    rungs.report(0, 1, 0.5)
    assert rungs.report(0, 2, value) == Decision(False, "not finite")
    assert rungs.entries == [{0: -INF}, {0: -INF}, {}]
    assert rungs.report(1, 1, 0.1).go_on


def test_a_failed_trial_counts_in_the_rungs_it_reached_and_the_next() -> None:
    rungs = Rungs((1, 3, 9, 27), 81, 3)
    rungs.report(0, 1, 0.9)
    rungs.report(0, 3, 0.9)
    rungs.fail(0)
    assert rungs.entries == [{0: -INF}, {0: -INF}, {0: -INF}, {}]
    rungs.fail(1)
    assert rungs.entries[:2] == [{0: -INF, 1: -INF}, {0: -INF}]


def test_failing_twice_counts_once() -> None:
    rungs = Rungs((1, 3, 9), 27, 3)
    rungs.report(0, 1, NAN)
    assert rungs.entries == [{0: -INF}, {}, {}]
    rungs.fail(0)
    assert rungs.entries == [{0: -INF}, {}, {}]


def promoting(eta: int = 3) -> Rungs:
    return Rungs((1, 3, 9), 10, eta, "promotion")


def test_a_trial_pauses_at_a_rung_and_says_its_rank() -> None:
    rungs = promoting()
    assert rungs.report(0, 1, 0.5) == Decision(False, "rung 1: rank 1 of 1, best 0 go on", True)
    for trial in range(1, 6):
        rungs.report(trial, 1, 0.5 + trial / 10)
    assert rungs.report(6, 1, 0.6) == Decision(False, "rung 1: rank 6 of 7, best 2 go on", True)


def test_the_best_is_promoted_first_once_there_are_enough() -> None:
    rungs = promoting()
    found = []
    for trial, value in enumerate([0.1, 0.3, 0.2, 0.5, 0.4, 0.6]):
        rungs.report(trial, 1, value)
        found.append(rungs.next_promotion())
    assert found == [None, None, (1, 1), (3, 1), (3, 1), (5, 1)]
    rungs.promote(Promotion(5, 1))
    assert rungs.next_promotion() == (3, 1)
    rungs.promote(Promotion(3, 1))
    assert rungs.next_promotion() is None


def test_the_highest_rung_comes_first() -> None:
    rungs = promoting(2)
    for trial in range(4):
        rungs.report(trial, 1, trial / 10)
    for trial in (3, 2):
        rungs.promote(Promotion(trial, 1))
        rungs.report(trial, 3, 0.0)
    rungs.report(4, 1, 0.9)
    assert rungs.next_promotion() == (3, 3)
    rungs.promote(Promotion(3, 3))
    assert rungs.next_promotion() == (4, 1)


def test_a_promoted_trial_goes_on_until_the_next_rung_and_the_end() -> None:
    rungs = promoting(2)
    for trial in range(2):
        rungs.report(trial, 1, 0.5)
        rungs.report(trial, 3, 0.5)
        rungs.report(trial, 9, 0.5)
    assert rungs.next_promotion() == (0, 9)
    rungs.promote(Promotion(0, 9))
    assert rungs.report(0, 10, 0.1) == Decision(False, "all epochs")
    assert rungs.next_promotion() is None
    assert Rungs((1, 3), 9, 2, "promotion").report(0, 2, 0.5).paused
    rungs.report(2, 1, 0.9)
    rungs.promote(Promotion(2, 1))
    assert rungs.report(2, 2, 0.9) == Decision(True, "")
    assert rungs.report(2, 3, 0.9).paused


def test_who_is_at_the_end_is_not_promoted() -> None:
    rungs = Rungs((1,), 3, 2, "promotion")
    for trial in range(2):
        assert rungs.report(trial, 3, 0.5) == Decision(False, "all epochs")
    assert rungs.next_promotion() is None


def test_what_failed_is_not_promoted_but_counts() -> None:
    rungs = promoting(2)
    rungs.report(0, 1, NAN)
    rungs.fail(1)
    rungs.fail(2)
    assert rungs.next_promotion() is None
    rungs.report(3, 1, 0.1)
    assert rungs.next_promotion() == (3, 1)
    rungs.promote(Promotion(3, 1))
    rungs.fail(3)
    assert rungs.entries[1] == {3: -INF}
    assert rungs.next_promotion() is None


def test_of_trials_tied_the_first_is_promoted() -> None:
    rungs = promoting()
    for trial in range(5):
        rungs.report(trial, 1, 0.098)
    assert rungs.next_promotion() == (0, 1)
    rungs.promote(Promotion(0, 1))
    assert rungs.next_promotion() is None


def test_stopping_promotes_none() -> None:
    rungs = Rungs((1,), 9, 2)
    for trial in range(6):
        rungs.report(trial, 1, 0.5)
    assert rungs.next_promotion() is None


@pytest.mark.parametrize(
    ("metric", "accuracy", "loss", "expected"),
    [
        ("accuracy", 0.9, 3.0, 0.9),
        ("loss", 0.9, 3.0, -3.0),
        ("accuracy", 0.098, NAN, -INF),
        ("accuracy", 0.098, INF, -INF),
        ("accuracy", NAN, 1.0, -INF),
        ("loss", 0.9, -INF, -INF),
        ("loss", INF, 1.0, -INF),
    ],
)
def test_score(metric: str, accuracy: float, loss: float, expected: float) -> None:
    assert score(metric, accuracy, loss) == expected  # type: ignore[arg-type]


@given(st.floats(0, 1), st.floats(0, 1e30), st.floats(0, 1e30))
def test_lower_loss_scores_higher(accuracy: float, one: float, other: float) -> None:
    assert (score("loss", accuracy, one) > score("loss", accuracy, other)) == (one < other)
    assert not math.isnan(score("loss", accuracy, one))
