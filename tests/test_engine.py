"""What an engine owes its trials: their own curves, one epoch ahead at most, no other's faults."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import new_run
from test_lanes import alone, first_epoch
from test_training import small

from mnist_tune import engine as engine_room
from mnist_tune import programs, trial_files
from mnist_tune.checkpoints import LAST, read_checkpoint
from mnist_tune.datasets import Split
from mnist_tune.engine import Engine, Note
from mnist_tune.errors import EngineError
from mnist_tune.hparams import Config
from mnist_tune.slots import Slots
from mnist_tune.winner import trial_settings

MAX_EPOCHS = 5
CONFIGS = [small(seed=seed, learning_rate=0.01 * (seed + 1)) for seed in range(4)]


def split(n: int) -> Split:
    rng = np.random.default_rng(n)
    images = rng.integers(0, 256, (n, 28, 28, 1), np.uint8)
    return Split(images, rng.integers(0, 10, n, np.int32))


class Watched(Engine):
    """An engine whose programs a test counts, holds up and breaks."""

    def __init__(self, tmp_path: Path, most: int = 4) -> None:
        self.notes: list[Note] = []
        self.turns: list[tuple[int, ...]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.breaks: Callable[[tuple[int, ...]], bool] = lambda _trials: False
        run = tmp_path / "run"
        experiment = new_run(run, max_epochs=MAX_EPOCHS) if not run.exists() else None
        self.path = run
        settings = trial_settings(experiment or self._opened(run), Slots(1.0, 0.0, 8, 4))
        super().__init__(settings, split(40), split(20), most, None, self._told)
        train = self._programs.run

        def run_or_break(config: Config, turn: Any) -> Any:
            assert self.gate.wait(60)
            if self.breaks(self.turns[-1]):
                raise MemoryError("RESOURCE_EXHAUSTED: no room\nmuch more text")
            return train(config, turn)

        self._programs.run = run_or_break  # type: ignore[method-assign]

    @staticmethod
    def _opened(run: Path) -> Any:
        from mnist_tune.experiment import open_experiment

        return open_experiment(run)

    def _told(self, _name: str, note: Note) -> None:
        self.notes.append(note)
        if note.running:
            self.turns.append(note.running)

    async def settled(self) -> None:
        """Waits until nothing is left that the engine would do unasked."""
        before = -1
        while before != len(self.turns) or self._note().running:
            before = len(self.turns)
            await asyncio.sleep(0.1)


def run_with(engine: Watched, work: Callable[[Watched], Coroutine[Any, Any, Any]]) -> Any:
    async def within() -> Any:
        return await asyncio.wait_for(work(engine), 120)

    return asyncio.run(within())


async def reports_of(engine: Engine, trial: int, epochs: int) -> list[dict[str, Any]]:
    reports = []
    for _ in range(epochs):
        report = await engine.next_report(trial)
        assert report is not None
        reports.append(report)
    return reports


def test_trials_that_share_an_engine_have_the_curves_that_they_have_alone(tmp_path: Path) -> None:
    async def work(engine: Watched) -> list[list[dict[str, Any]]]:
        for trial, config in enumerate(CONFIGS):
            await engine.join(trial, config, alone=False)
        return await asyncio.gather(
            *(reports_of(engine, trial, MAX_EPOCHS) for trial in range(len(CONFIGS)))
        )

    engine = Watched(tmp_path)
    curves = run_with(engine, work)
    for config, reports in zip(CONFIGS, curves, strict=True):
        state, losses, accuracies = alone(config, MAX_EPOCHS, train(), validation())
        assert [report["epoch"] for report in reports] == [1, 2, 3, 4, 5]
        assert [report["loss"] for report in reports] == losses.tolist()
        assert [report["accuracy"] for report in reports] == accuracies.tolist()
        arrays, _ = kept(tmp_path, CONFIGS.index(config))
        assert np.array_equal(arrays["params"]["conv1"]["kernel"], state.params["conv1"]["kernel"])
    assert engine._note().epochs_wasted == 0


def train() -> Any:
    from mnist_tune.training import device_data

    return device_data(split(40))


def validation() -> Any:
    from mnist_tune.training import device_data

    return device_data(split(20))


def kept(tmp_path: Path, trial: int) -> tuple[Any, dict[str, Any]]:
    return read_checkpoint(tmp_path / "run" / "checkpoints" / f"{trial:05d}" / LAST)


def test_it_runs_one_epoch_ahead_and_keeps_none_of_it_until_it_is_asked_for(
    tmp_path: Path,
) -> None:
    async def work(engine: Watched) -> None:
        await engine.join(0, CONFIGS[0], alone=False)
        await engine.settled()
        assert engine.turns == [(0,)]
        assert not (tmp_path / "run" / "checkpoints" / "00000").exists()
        first = await engine.next_report(0)
        await engine.settled()
        assert first is not None
        assert first["epoch"] == kept(tmp_path, 0)[1]["epoch"] == 1
        assert len(engine.turns) == 2
        # What nobody has asked for is wasted if it ends now.
        assert (await engine.note()).epochs_wasted == 1
        assert engine._note().epochs_wasted == 0
        await engine.leave(0)
        assert (await engine.note()).epochs_wasted == 1
        assert kept(tmp_path, 0)[1]["epoch"] == 1

    run_with(Watched(tmp_path), work)


def test_nothing_is_run_beyond_the_last_epoch(tmp_path: Path) -> None:
    async def work(engine: Watched) -> None:
        await engine.join(0, CONFIGS[0], alone=False)
        await reports_of(engine, 0, MAX_EPOCHS)
        await engine.settled()
        assert len(engine.turns) == MAX_EPOCHS
        assert (await engine.note()).epochs_wasted == 0

    run_with(Watched(tmp_path), work)


def test_a_trial_that_diverges_is_not_run_ahead(tmp_path: Path) -> None:
    wild = small(learning_rate=1000.0, beta=0.99, weight_decay=1000.0)

    async def work(engine: Watched) -> None:
        await engine.join(0, wild, alone=False)
        for asked in range(1, MAX_EPOCHS + 1):
            report = await engine.next_report(0)
            assert report is not None
            if not math.isfinite(report["loss"]):
                await engine.settled()
                assert len(engine.turns) == asked
                return
        raise AssertionError("it has not diverged")

    run_with(Watched(tmp_path), work)


def test_a_lane_is_restored_where_its_files_left_it(tmp_path: Path) -> None:
    async def begin(engine: Watched) -> None:
        await engine.join(0, CONFIGS[0], alone=False)
        await reports_of(engine, 0, 2)

    async def go_on(engine: Watched) -> list[dict[str, Any]]:
        await engine.join(0, CONFIGS[0], alone=False)
        await engine.settled()
        # Its last report is still to be sent again: nothing is run ahead of that.
        assert engine.turns == []
        return await reports_of(engine, 0, MAX_EPOCHS - 1)

    first = Watched(tmp_path)
    run_with(first, begin)
    reports = run_with(Watched(tmp_path), go_on)
    assert [report["epoch"] for report in reports] == [2, 3, 4, 5]
    _, losses, _ = alone(CONFIGS[0], MAX_EPOCHS, train(), validation())
    assert [report["loss"] for report in reports] == losses[1:].tolist()


def test_a_trial_that_joins_again_is_in_one_lane(tmp_path: Path) -> None:
    async def work(engine: Watched) -> None:
        await engine.join(0, CONFIGS[0], alone=False)
        engine.gate.clear()
        waiting = asyncio.create_task(engine.next_report(0))
        await asyncio.sleep(0.1)
        # Its process has died and another one takes its place.
        await engine.join(0, CONFIGS[0], alone=False)
        engine.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert [r["epoch"] for r in await reports_of(engine, 0, MAX_EPOCHS)] == [1, 2, 3, 4, 5]

    run_with(Watched(tmp_path), work)


def test_a_program_that_breaks_after_its_trial_has_left_ends_nothing(tmp_path: Path) -> None:
    async def work(engine: Watched) -> None:
        engine.gate.clear()
        await engine.join(0, CONFIGS[0], alone=False)
        await engine.join(1, CONFIGS[1], alone=False)
        engine.breaks = lambda trials: trials == (0,) and len(engine.turns) == 1
        asked = asyncio.create_task(engine.next_report(0))
        await asyncio.sleep(0.1)
        await engine.leave(0)
        engine.gate.set()
        assert [r["epoch"] for r in await reports_of(engine, 1, MAX_EPOCHS)] == [1, 2, 3, 4, 5]
        with pytest.raises(asyncio.CancelledError):
            await asked

    run_with(Watched(tmp_path), work)


def test_a_process_that_joins_late_does_not_take_the_lane_of_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(engine: Watched) -> None:
        slow = threading.Event()
        seated, calls = engine_room.seat_for, []

        def wait_first(*arguments: Any) -> Any:
            calls.append(arguments)
            if len(calls) == 1:
                assert slow.wait(60)
            return seated(*arguments)

        monkeypatch.setattr(engine_room, "seat_for", wait_first)
        late = asyncio.create_task(engine.join(0, CONFIGS[0], alone=False))
        await asyncio.sleep(0.1)
        await engine.join(0, CONFIGS[0], alone=False)
        assert [r["epoch"] for r in await reports_of(engine, 0, 2)] == [1, 2]
        slow.set()
        await late
        assert [r["epoch"] for r in await reports_of(engine, 0, 3)] == [3, 4, 5]

    run_with(Watched(tmp_path), work)


def test_a_trial_without_a_lane_is_told_so(tmp_path: Path) -> None:
    async def work(engine: Watched) -> None:
        assert await engine.next_report(7) is None
        name = await engine.join(0, CONFIGS[0], alone=False)
        assert await engine.next_report(7) is None
        await engine.leave(7)
        assert await engine.join(1, CONFIGS[1], alone=False) == name

    engine = Watched(tmp_path)
    run_with(engine, work)
    assert engine._name != Watched(tmp_path)._name


def test_shapes_take_turns(tmp_path: Path) -> None:
    async def work(engine: Watched) -> None:
        other = small(features=[3, 2])
        engine.gate.clear()
        for trial, config in enumerate([CONFIGS[0], CONFIGS[1], other]):
            await engine.join(trial, config, alone=False)
        asked = [reports_of(engine, trial, MAX_EPOCHS) for trial in range(3)]
        engine.gate.set()
        await asyncio.gather(*asked)
        assert (await engine.note()).compilations == 2
        for turn in engine.turns:
            assert turn == (2,) or set(turn) <= {0, 1}
        ran = [sum(trial in turn for turn in engine.turns) for trial in range(3)]
        assert ran == [MAX_EPOCHS] * 3

    run_with(Watched(tmp_path), work)


@pytest.mark.parametrize("bad", [0, 2])
def test_only_the_trial_that_breaks_the_program_fails(tmp_path: Path, bad: int) -> None:
    async def work(engine: Watched) -> None:
        engine.breaks = lambda trials: bad in trials
        engine.gate.clear()
        for trial, config in enumerate(CONFIGS[:3]):
            await engine.join(trial, config, alone=False)
        asked = [reports_of(engine, trial, MAX_EPOCHS) for trial in range(3)]
        engine.gate.set()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        for trial, outcome in enumerate(outcomes):
            if trial == bad:
                assert isinstance(outcome, EngineError)
                assert str(outcome) == "MemoryError: RESOURCE_EXHAUSTED: no room"
            else:
                assert isinstance(outcome, list)
                _, losses, _ = alone(CONFIGS[trial], MAX_EPOCHS, train(), validation())
                assert [report["loss"] for report in outcome] == losses.tolist()
        with pytest.raises(EngineError, match="no room"):
            await engine.next_report(bad)

    run_with(Watched(tmp_path), work)


def test_lanes_that_are_too_many_for_the_memory_run_in_smaller_programs(tmp_path: Path) -> None:
    async def work(engine: Watched) -> None:
        engine.breaks = lambda trials: len(trials) > 2
        engine._programs._lane_s[programs.shapes_of(CONFIGS[0])] = 0.001
        engine.gate.clear()
        for trial, config in enumerate(CONFIGS):
            await engine.join(trial, config, alone=False)
        asked = [reports_of(engine, trial, MAX_EPOCHS) for trial in range(4)]
        engine.gate.set()
        for reports in await asyncio.gather(*asked):
            assert [report["epoch"] for report in reports] == [1, 2, 3, 4, 5]
        assert sum(len(turn) > 2 for turn in engine.turns) <= 1
        assert any(len(turn) == 2 for turn in engine.turns), engine.turns

    engine = Watched(tmp_path)
    run_with(engine, work)


def test_one_that_may_not_run_beside_others_may_after_an_epoch(tmp_path: Path) -> None:
    async def work(engine: Watched) -> None:
        engine.gate.clear()
        for trial, config in enumerate(CONFIGS[:2]):
            await engine.join(trial, config, alone=True)
        asked = [reports_of(engine, trial, MAX_EPOCHS) for trial in range(2)]
        engine.gate.set()
        await asyncio.gather(*asked)
        assert engine.turns[:2] == [(0,), (1,)]

    run_with(Watched(tmp_path), work)


def test_an_epoch_that_cannot_be_kept_is_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(engine: Watched) -> None:
        await engine.join(0, CONFIGS[0], alone=False)

        def full(*_: object) -> None:
            raise OSError("no space left")

        monkeypatch.setattr(trial_files, "write_checkpoint", full)
        with pytest.raises(OSError, match="no space left"):
            await engine.next_report(0)

    run_with(Watched(tmp_path), work)


def test_in_turn_a_program_is_as_long_as_its_lanes_can_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def most_after(lane_s: float) -> int:
        made = programs.Programs(train(), validation(), 8, abreast=False)
        assert made.most(CONFIGS[0]) == 1
        made._lane_s[programs.shapes_of(CONFIGS[0])] = lane_s
        return made.most(CONFIGS[0])

    assert [most_after(s) for s in (0.001, 0.3, 0.6, 20.0)] == [8, 3, 1, 1]


def test_abreast_a_better_size_is_compiled_while_another_one_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = programs.Programs(train(), validation(), 4, abreast=True)
    sizes, compiles = [], threading.Event()
    next_epoch, program = programs.lanes.next_epoch, programs.lanes.program

    def watched(*arguments: Any) -> Any:
        sizes.append(arguments[4])
        return next_epoch(*arguments)

    def held_up(*arguments: Any) -> Any:
        assert arguments[3] != 1 or compiles.wait(60)
        return program(*arguments)

    monkeypatch.setattr(programs.lanes, "next_epoch", watched)
    monkeypatch.setattr(programs.lanes, "program", held_up)
    made.run(CONFIGS[0], [first_epoch(config) for config in CONFIGS[:3]])
    made.run(CONFIGS[0], [first_epoch(CONFIGS[0])])
    assert sizes == [4, 4]
    compiles.set()
    made._sizes[programs.shapes_of(CONFIGS[0])][1].result(60)
    made.run(CONFIGS[0], [first_epoch(CONFIGS[0])])
    assert sizes == [4, 4, 1]
    assert made.compilations == 2
