"""A trial as Ray Tune runs it, in a lane: a light process that has its epochs trained elsewhere."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError
from ray.tune import Trainable

from mnist_tune.errors import EngineError
from mnist_tune.hparams import Config
from mnist_tune.options import TrialSettings
from mnist_tune.trial import check_node

if TYPE_CHECKING:
    from mnist_tune.engines import Slot

_MOST_LOST_ENGINES = 20
_TRY_AGAIN_S = 0.2


class LaneTrial(Trainable):  # type: ignore[misc]  # Ray has no types
    """Has one configuration after another trained by the engine that it shares with others.

    Configurations and reports are those of ``trial.TrainingTrial``.
    """

    _slot: Slot | None
    _number: int
    _config: Config
    _engine_name: str
    _lost_engines: int

    def setup(self, config: dict[str, Any], desk: Any, settings: TrialSettings) -> None:
        """Finds this process's engine, and joins it with the first trial.

        Raises:
            ClusterError: this node has joined later than others, and isn't fit for the search.
        """
        check_node(settings)
        self._node = ray.get_runtime_context().get_node_id()
        on_gpu = settings.device == "gpu"
        self._gpus = os.environ.get("CUDA_VISIBLE_DEVICES") if on_gpu else None
        self._desk, self._slot = desk, None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Leaves the lane of the last trial, and joins with another one."""
        self._engine.leave.remote(self._number)
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Waits for the next epoch, or gets again the report of the one before.

        Raises:
            EngineError: it can't be trained.
        """
        while True:
            try:
                report = ray.get(self._engine.next_report.remote(self._number))
            except RayActorError as error:
                report = None
                self._check_cause(error)
                self._leave_slot()
            if report is not None:
                return {**report, "node": self._node}
            # Another process has taken the engine's place. If it was this trial that ended the one
            # before, it won't end this one beside others.
            self._join(alone=True)

    def cleanup(self) -> None:
        """Leaves the engine to others."""
        if self._slot is not None:
            self._engine.leave.remote(self._number)
            self._leave_slot()

    def _begin(self, config: dict[str, Any]) -> None:
        self._number = config["trial"]
        self._config = {name: value for name, value in config.items() if name != "trial"}
        self._lost_engines = 0
        self._join(alone=False)

    def _join(self, alone: bool) -> None:
        while True:
            try:
                if self._slot is None:
                    seat = self._desk.seat.remote(self._node, self._gpus)
                    self._slot, self._engine = ray.get(seat)
                joined = self._engine.join.remote(self._number, self._config, alone)
                self._engine_name = ray.get(joined)
                return
            except RayActorError as error:
                self._count_lost(error)
                self._leave_slot()
                alone = True
                time.sleep(_TRY_AGAIN_S * self._lost_engines)

    def _leave_slot(self) -> None:
        if self._slot is not None:
            self._desk.leave.remote(self._slot)
        self._slot = None

    def _check_cause(self, error: RayActorError) -> None:
        self._count_lost(error)
        running: tuple[int, ...] = ()
        # The desk can have died too.
        with suppress(RayActorError):
            running = ray.get(self._desk.was_running.remote(self._engine_name))
        if running == (self._number,):
            raise EngineError("the process that trains died while it trained this trial alone")

    def _count_lost(self, error: RayActorError) -> None:
        self._lost_engines += 1
        if self._lost_engines > _MOST_LOST_ENGINES:
            raise EngineError(f"the process that trains dies again and again: {_last_line(error)}")


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else ""
