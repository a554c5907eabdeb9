"""What free slots do, without Ray: trials, slots, failures and kills are made up."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
from examples import DATA, SPACE, drawn, paused, promote, report, session
from hypothesis import given, settings
from hypothesis import strategies as st
from paper import Paper
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from mnist_tune.asha import Asha, replay
from mnist_tune.driver import searcher_for
from mnist_tune.experiment import Experiment
from mnist_tune.ledger import Event
from mnist_tune.listed import ListedConfigs
from mnist_tune.options import SearchOptions
from mnist_tune.promotions import Promotions
from mnist_tune.results import fold
from mnist_tune.rungs import Rungs
from mnist_tune.slots import Slots
from mnist_tune.space import space_from_mapping

NAN = float("nan")
MAX_EPOCHS, ETA = 5, 2
MILESTONES = (1, 2, 4)
FAILS = None
"""In a curve: the epoch at which the trial fails for good."""

Curve = list[float | None]


class Killed(Exception):
    """The driver dies."""


class Search:
    """A driver, its slots and its disk: the ledger and how far each trial's checkpoint is."""

    def __init__(self, curves: list[Curve], slots: int, seed: int = 0) -> None:
        self.curves, self.slots, self.random = curves, slots, random.Random(seed)
        self.events: list[Event] = [drawn(i) for i in range(len(curves))]
        self.checkpoints: Counter[int] = Counter()

    def run(self, kill_at: int | None = None) -> None:
        """Goes on from what is on the disk; is killed before it writes event n (from 0) if
        ``kill_at`` is 2n, after that if it's 2n + 1."""
        self.kill_at = kill_at
        options = SearchOptions(
            max_epochs=MAX_EPOCHS, reduction_factor=ETA, asha_type="promotion", num_samples=1
        )
        results = fold("accuracy", self.events)
        experiment = Experiment(
            Path("nowhere"), options, space_from_mapping(SPACE), dict(DATA), results
        )
        self.rungs = options.rungs()
        epochs = replay(self.rungs, "accuracy", self.events)
        self.asha = Asha(self.rungs, "accuracy", epochs, self.record)
        places = Slots(1.0, 0.0, self.slots)
        self.searcher, samples = searcher_for(experiment, places, self.rungs, self.record)
        assert samples == -1
        # Ray's name of a trial → ours, and the epochs that its process has.
        self.running: dict[str, tuple[int, int]] = {}
        while self.fill() or self.running:
            self.step(self.random.choice(sorted(self.running)))

    def record(self, event: Event) -> None:
        place = 2 * len(self.events)
        if self.kill_at == place:
            raise Killed
        self.events.append(event)
        if self.kill_at == place + 1:
            raise Killed

    def fill(self) -> bool:
        """Takes suggestions; whether the search isn't over."""
        while True:
            name = f"{self.random.random()}"
            config = self.searcher.suggest(name)
            if config == Searcher.FINISHED:
                assert not self.running
                return False
            if config is None:
                assert self.running, "Tune would wait for ever"
                return True
            number = config["trial"]
            assert number not in [running for running, _ in self.running.values()]
            has = self.checkpoints[number]
            # The last report is sent again.
            self.running[name] = (number, has - 1 if has else 0)
            assert len(self.running) <= self.slots

    def step(self, name: str) -> None:
        number, epoch = self.running[name]
        value = self.curves[number][epoch]
        trial: Any = SimpleNamespace(
            config={"trial": number}, status=Trial.RUNNING, error_file=None
        )
        if value is FAILS:
            self.asha.on_trial_error(None, trial)
            self.ended(name, error=True)
            return
        epoch += 1
        self.checkpoints[number] = max(epoch, self.checkpoints[number])
        self.running[name] = (number, epoch)
        reported = {"epoch": epoch, "accuracy": value, "loss": 1.0, "epoch_s": 0.5}
        if self.asha.on_trial_result(None, trial, reported) == TrialScheduler.STOP:
            self.ended(name)

    def ended(self, name: str, error: bool = False) -> None:
        del self.running[name]
        self.searcher.on_trial_complete(name, None, error=error)

    def lines(self) -> list[str]:
        """The ledger without what depends on the clock."""
        return [repr({k: v for k, v in e.items() if k != "time"}) for e in self.events]


VALUES = st.sampled_from([0.098, 0.5, 0.5, 0.9]) | st.floats(0, 1)
CURVES = st.lists(
    st.lists(
        st.one_of(VALUES, VALUES, VALUES, VALUES, VALUES, st.sampled_from([NAN, FAILS])),
        min_size=MAX_EPOCHS,
        max_size=MAX_EPOCHS,
    ),
    min_size=1,
    max_size=12,
)


def check(search: Search) -> None:
    """What the paper says must hold of a search that is over."""
    paper = Paper(MILESTONES, MAX_EPOCHS, ETA)
    paper.check(
        {**e, "accuracy": None} if e.get("accuracy") != e.get("accuracy") else e
        for e in search.events
    )
    assert paper.get_job() is None
    results = fold("accuracy", search.events)
    assert results.to_run == 0
    assert all(trial.epochs or trial.status == "errored" for trial in results.trials)
    for trial in results.trials:
        assert [r.epoch for r in trial.reports] == list(range(1, trial.epochs + 1))


@settings(max_examples=200, deadline=None)
@given(curves=CURVES, slots=st.integers(1, 4), seed=st.integers(0, 99))
def test_every_promotion_is_the_papers(curves: list[Curve], slots: int, seed: int) -> None:
    search = Search(curves, slots, seed)
    search.run()
    check(search)


@settings(max_examples=200, deadline=None)
@given(curves=CURVES, data=st.data())
def test_a_search_that_is_killed_and_resumed_ends_as_a_whole_one(
    curves: list[Curve], data: st.DataObject
) -> None:
    whole = Search(curves, 1)
    whole.run()
    cut = Search(curves, 1)
    places = st.integers(2 * len(curves), 2 * len(whole.events) - 1)
    for at in sorted(data.draw(st.sets(places))):
        with pytest.raises(Killed):
            cut.run(at)
    cut.run()
    assert cut.lines() == whole.lines()


@settings(max_examples=100, deadline=None)
@given(curves=CURVES, slots=st.integers(2, 4), seed=st.integers(0, 99), at=st.integers(0, 99))
def test_many_slots_that_are_killed_go_on(
    curves: list[Curve], slots: int, seed: int, at: int
) -> None:
    search = Search(curves, slots, seed)
    try:
        search.run(2 * len(curves) + at)
    except Killed:
        search.run()
    check(search)


def test_one_slot_does_the_papers_jobs_in_order() -> None:
    curves: list[Curve] = [[0.1 * i] * MAX_EPOCHS for i in (1, 2, 3, 4)]
    search = Search(curves, 1)
    search.run()
    assert [
        (e["event"], e["trial"], e["epoch"]) for e in search.events if e["event"] != "trial"
    ] == [
        *[("report", 0, 1), ("report", 1, 1), ("promote", 1, 1), ("report", 1, 2)],
        *[("report", 2, 1), ("promote", 2, 1), ("report", 2, 2), ("promote", 2, 2)],
        *[("report", 2, 3), ("report", 2, 4), ("report", 3, 1), ("promote", 3, 1)],
        *[("report", 3, 2), ("promote", 3, 2), ("report", 3, 3), ("report", 3, 4)],
        *[("promote", 3, 4), ("report", 3, 5)],
    ]


def promotions(events: list[Event], begun: list[int], new: list[int], slots: int) -> Promotions:
    rungs = Rungs(MILESTONES, MAX_EPOCHS, ETA, "promotion")
    replay(rungs, "accuracy", events)
    return Promotions([{"trial": i} for i in range(9)], begun, new, rungs, slots, events.append)


def test_what_was_running_comes_first_then_promotions_then_new_trials() -> None:
    events = [paused(0, 1, 0.9), paused(1, 1, 0.8), report(2, 1, 0.7)]
    searcher = promotions(events, [2], [3, 4], 9)
    found = [searcher.suggest(str(i)) for i in range(5)]
    assert found == [{"trial": 2}, {"trial": 0}, {"trial": 3}, {"trial": 4}, None]
    assert {**events[-1], "time": 2.0} == promote(0, 1)
    assert len(events) == 4


def test_a_promotion_is_in_the_ledger_before_it_is_suggested() -> None:
    def full(_: Event) -> None:
        raise OSError(28, "No space left on device")

    rungs = Rungs(MILESTONES, MAX_EPOCHS, ETA, "promotion")
    for trial in range(2):
        rungs.report(trial, 1, 0.5)
    searcher = Promotions([{"trial": 0}, {"trial": 1}], [], [], rungs, 1, full)
    with pytest.raises(OSError, match="No space left"):
        searcher.suggest("a")
    assert rungs.next_promotion() == (0, 1)


def test_nothing_is_chosen_ahead_of_a_free_slot() -> None:
    searcher = promotions([], [], [0, 1, 2], 2)
    assert [searcher.suggest(name) for name in "abc"] == [{"trial": 0}, {"trial": 1}, None]
    searcher.on_trial_result("a", {"accuracy": 1.0})
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("a", {"accuracy": 1.0})
    assert searcher.suggest("c") == {"trial": 2}
    searcher.on_trial_complete("b", None, error=True)
    assert searcher.suggest("d") is None
    searcher.on_trial_complete("c", None)
    assert searcher.suggest("d") == Searcher.FINISHED


def test_a_cluster_is_asked_for_all_and_a_machine_for_what_fits() -> None:
    events = [*(drawn(i) for i in range(5)), session(), report(3, 1)]
    for address, expected in ((None, [3, 0]), ("auto", [3, 0, 1, 2, 4])):
        options = SearchOptions(asha_type="promotion", address=address)
        results = fold("accuracy", events)
        run = Experiment(Path("nowhere"), options, space_from_mapping(SPACE), dict(DATA), results)
        searcher, _ = searcher_for(run, Slots(1.0, 0.0, 2), options.rungs(), events.append)
        found = [searcher.suggest(str(i)) for i in range(6)]
        assert [config["trial"] for config in found if config] == expected
        assert found[0] == {"trial": 3, **results.trials[3].config}


def test_stopping_lists_what_is_left() -> None:
    events = [*(drawn(i) for i in range(3)), session(), report(0, 1, stop="rung 1"), report(2, 1)]
    results = fold("accuracy", events)
    run = Experiment(Path("x"), SearchOptions(), space_from_mapping(SPACE), dict(DATA), results)
    searcher, samples = searcher_for(run, Slots(1.0, 0.0, 2), run.options.rungs(), events.append)
    assert isinstance(searcher, ListedConfigs)
    assert samples == 2
    assert [searcher.suggest(name)["trial"] for name in "ab"] == [1, 2]  # type: ignore[index]


@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_it_can_be_pickled_with_a_record_that_cannot(pickler: Any, tmp_path: Path) -> None:
    searcher = promotions([], [], [0], 1)
    with (tmp_path / "ledger").open("w") as file:
        searcher._record = lambda event: print(event, file=file)
        assert pickle.loads(pickler.dumps(searcher)).suggest("a") == Searcher.FINISHED
    searcher.save(str(tmp_path / "state"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger"]
    searcher.restore(str(tmp_path / "state"))
    assert searcher.suggest("a") == {"trial": 0}
