"""The process that owns a device and trains many trials on it, each in a lane.

A trial of Ray Tune joins with its configuration, asks for one report after the other, and leaves.
While the device has nothing to do that is asked for, a lane is trained one epoch further than its
trial has asked; what the trial then doesn't ask for is thrown away. A trial's files are written
when it asks, never ahead: the epoch that they hold follows one that the search has recorded.
"""

from __future__ import annotations

import asyncio
import math
import os
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import uuid4

from mnist_tune import devices
from mnist_tune.datasets import Split
from mnist_tune.errors import EngineError
from mnist_tune.hparams import Config, shapes_of
from mnist_tune.options import TrialSettings
from mnist_tune.rungs import score
from mnist_tune.seats import Report, Seat, report_of, seat_for
from mnist_tune.trial_files import keep
from mnist_tune.turns import Waiting, next_turn


class Note(NamedTuple):
    """What an engine has done; the last one stays when it's gone.

    Attributes:
        running: the trials in the program that it runs.
        epochs_wasted: epochs trained ahead and thrown away.
        compilations: programs compiled, or found in the cache of compiled programs.
    """

    running: tuple[int, ...]
    epochs_wasted: int
    compilations: int


class Engine:
    """Trains lanes on one device; one event loop calls its methods.

    Args:
        settings: the search's.
        train: the training set.
        validation: the validation set.
        most: lanes in one program, at most.
        gpus: the GPU, as ``CUDA_VISIBLE_DEVICES`` has it; None: what JAX finds.
        tell: takes this process's name and a note, before each program runs.
    """

    def __init__(
        self,
        settings: TrialSettings,
        train: Split,
        validation: Split,
        most: int,
        gpus: str | None,
        tell: Callable[[str, Note], object],
    ) -> None:
        if gpus is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus
        devices.configure(settings.device, settings.threads)
        from mnist_tune import lanes, training
        from mnist_tune.programs import Programs

        self._settings, self._most, self._tell = settings, most, tell
        self._abreast = lanes.are_abreast()
        self._programs = Programs(
            training.device_data(train), training.device_data(validation), most, self._abreast
        )
        self._seats: dict[int, Seat] = {}
        self._joins: Counter[int] = Counter()
        self._turns = self._wasted = 0
        self._wake: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._name = uuid4().hex

    async def join(self, trial: int, config: Config, alone: bool) -> str:
        """Gives a trial a lane, where its last checkpoint left it.

        Args:
            trial: its number; a lane that it still has is freed.
            config: its full configuration.
            alone: run it by itself until it has trained an epoch.

        Returns:
            This process's name: one that takes its place has another.
        """
        if self._wake is None:
            self._wake = asyncio.Event()
            self._keep_up(self._run())
        await self.leave(trial)
        self._joins[trial] += 1
        turn = self._joins[trial]
        seat = await asyncio.to_thread(seat_for, trial, config, self._settings, self._turns, alone)
        # Reading takes its time: a process that took this one's place can have been sooner.
        if self._joins[trial] == turn:
            self._seats[trial] = seat
            self._wake.set()
        return self._name

    async def next_report(self, trial: int) -> Report | None:
        """A trial's next report, when its epoch is through and kept; None if it has no lane.

        Raises:
            EngineError: the epoch could not be trained.
            StorageError: it could not be kept.
        """
        seat = self._seats.get(trial)
        if seat is None or self._wake is None:
            return None
        if seat.failed:
            raise seat.failed
        seat.asked = asyncio.get_running_loop().create_future()
        asked = seat.asked
        if seat.ready is not None:
            self._answer(seat, seat.ready)
        self._wake.set()
        return await asked

    async def leave(self, trial: int) -> None:
        """Frees a trial's lane."""
        seat = self._seats.pop(trial, None)
        if seat is not None:
            self._wasted += seat.epoch - seat.taken
            if seat.asked:
                seat.asked.cancel()
                seat.asked = None

    async def note(self) -> Note:
        """What it has done; epochs that nobody has asked for yet count as thrown away."""
        return self._note(sum(seat.epoch - seat.taken for seat in self._seats.values()))

    def _note(self, ahead: int = 0) -> Note:
        running = tuple(seat.trial for seat in self._seats.values() if seat.running)
        return Note(running, self._wasted + ahead, self._programs.compilations)

    async def _run(self) -> None:
        assert self._wake is not None
        while True:
            self._wake.clear()
            turn = self._next_turn()
            await (self._run_turn(turn) if turn else self._wake.wait())

    def _next_turn(self) -> list[Seat]:
        waiting = [
            Waiting(
                seat.trial, shapes_of(seat.config), seat.since, seat.asked is not None, seat.alone
            )
            for seat in self._seats.values()
            if self._can_run(seat)
        ]
        turn = [self._seats[trial] for trial in next_turn(waiting, self._most, self._abreast)]
        return turn[: self._programs.most(turn[0].config)] if turn else []

    def _can_run(self, seat: Seat) -> bool:
        if seat.failed or seat.ready is not None or seat.epoch >= self._settings.max_epochs:
            return False
        # What could end this process is run for a trial that waits, and learns that it was it.
        return seat.asked is not None or (seat.hopeful and not seat.alone)

    async def _run_turn(self, turn: Sequence[Seat]) -> None:
        from mnist_tune.lanes import Lane

        self._turns += 1
        for seat in turn:
            seat.running, seat.epoch, seat.since = True, seat.epoch + 1, self._turns
        told = self._tell(self._name, self._note())
        if turn[0].alone and isinstance(told, Awaitable):
            # If it ends this process, that must be known.
            with suppress(Exception):
                await told
        inputs = [Lane(seat.state, seat.hypers, seat.epoch) for seat in turn]
        try:
            states, metrics, took_s = await asyncio.to_thread(
                self._programs.run, turn[0].config, inputs
            )
        except Exception as error:  # noqa: BLE001  # whatever it is, one lane has it
            self._broke(turn, error)
            return
        finally:
            for seat in turn:
                seat.running = False
            # What ends this process from now on isn't these trials.
            self._tell(self._name, self._note())
        for lane, seat in enumerate(turn):
            seat.state, seat.alone = states[lane], False
            self._through(seat, report_of(seat.epoch, metrics, lane, took_s))

    def _through(self, seat: Seat, report: Report) -> None:
        if self._seats.get(seat.trial) is not seat:
            return
        value = score(self._settings.metric, report["accuracy"], report["loss"])
        seat.hopeful, seat.ready = value > -math.inf, report
        if seat.asked:
            self._answer(seat, report)

    def _broke(self, turn: Sequence[Seat], error: Exception) -> None:
        """Tries half as many lanes next; of a single one, it's that trial's failure."""
        for seat in turn:
            seat.epoch -= 1
        if len(turn) > 1:
            self._programs.limit(turn[0].config, (len(turn) + 1) // 2)
            return
        # It wasn't their number.
        self._programs.limit(turn[0].config, self._most)
        seat = turn[0]
        lines = str(error).strip().splitlines() or [""]
        seat.failed = EngineError(f"{type(error).__name__}: {lines[0]}")
        if seat.asked:
            seat.asked.set_exception(seat.failed)
            seat.asked = None

    def _answer(self, seat: Seat, report: Report) -> None:
        """Keeps an epoch, then tells the trial of it; the next one can be trained meanwhile."""
        asked, state = seat.asked, seat.state
        seat.asked = seat.ready = None
        known, seat.taken = seat.taken, report["epoch"]
        assert asked is not None

        async def answer() -> None:
            try:
                if report["epoch"] > known:
                    seat.best_score = await asyncio.to_thread(
                        keep,
                        seat.place,
                        self._settings,
                        seat.config,
                        report,
                        state._asdict(),
                        seat.best_score,
                    )
            except Exception as error:  # noqa: BLE001  # the trial's to raise
                if not asked.done():
                    asked.set_exception(error)
            else:
                if not asked.done():
                    asked.set_result(report)

        self._keep_up(answer())

    def _keep_up(self, work: Any) -> None:
        """Runs something beside the calls; if it breaks, so does this process, and is restarted."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_end_if_broken)


def _end_if_broken(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        traceback.print_exception(error)
        os._exit(1)
