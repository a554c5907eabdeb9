"""The engines of a search as Ray runs them: one for each slot, made where trials come to run.

A trial asks for a share of a slot, so Ray places as many trials on a node as its slots have lanes.
The first of them to come has the node's engines made; the engine itself asks Ray for nothing.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mnist_tune.datasets import Dataset, Split
from mnist_tune.engine import Engine, Note
from mnist_tune.options import TrialSettings
from mnist_tune.slots import Slots, nodes, slots_on

_CALLS_AT_A_TIME = 1000
_ANSWER_WITHIN_S = 5.0


class Slot(NamedTuple):
    """Where an engine runs.

    Attributes:
        node: Ray's id of the node.
        gpus: its GPU, as ``CUDA_VISIBLE_DEVICES`` has it; None on a CPU.
        number: which of the node's slots it is, where they are CPU cores.
    """

    node: str
    gpus: str | None
    number: int


@contextmanager
def engines(
    settings: TrialSettings, slots: Slots, dataset: Dataset, counts: dict[str, Any]
) -> Iterator[Any]:
    """A ``Desk`` for the time of a ``with``; the devices of its engines are free afterwards.

    Args:
        settings: the search's.
        slots: what each engine gets, and how many trials share it.
        dataset: the search's.
        counts: gets what all engines have done in the end, see ``Note``.
    """
    # In a list, since Ray would take them out of its store for an argument.
    data = [ray.put(dataset.train), ray.put(dataset.validation)]
    # Where the driver is: a node that is lost doesn't take it along.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
    desk = ray.remote(Desk).options(**options).remote(settings, slots, data)
    try:
        yield desk
    finally:
        with suppress(ray.exceptions.RayError):
            counts |= ray.get(desk.close.remote(), timeout=2 * _ANSWER_WITHIN_S)
        ray.kill(desk)


class Desk:
    """Knows all engines of a search; it's the driver's, and ends with it.

    If its process dies, so do its engines; the one that takes its place has others made.

    Args:
        settings: the search's.
        slots: what each engine gets, and how many trials share it.
        data: training and validation set, in Ray's object store.
    """

    def __init__(self, settings: TrialSettings, slots: Slots, data: Sequence[Any]) -> None:
        self._settings, self._slots, self._data = settings, slots, data
        self._engines: dict[Slot, Any] = {}
        self._seated: Counter[Slot] = Counter()
        self._notes: dict[str, Note] = {}

    async def seat(self, node: str, gpus: str | None) -> tuple[Slot, Any]:
        """The engine on this node that has the fewest of these: processes that run a trial.

        Args:
            node: where the process runs.
            gpus: the GPU that it shares, if it does.
        """
        there = [each for each in nodes() if each.node_id == node and gpus is None]
        count = max(1, sum(slots_on(self._slots, each) for each in there))
        slot = min((Slot(node, gpus, n) for n in range(count)), key=self._seated.__getitem__)
        if slot not in self._engines:
            self._engines[slot] = self._engine(slot)
        self._seated[slot] += 1
        return slot, self._engines[slot]

    async def leave(self, slot: Slot) -> None:
        """Takes note that a process that was seated has ended."""
        self._seated[slot] -= 1

    async def tell(self, engine: str, note: Note) -> None:
        """Takes an engine's note."""
        self._notes[engine] = note

    async def was_running(self, engine: str) -> tuple[int, ...]:
        """The trials in the last program that an engine began to run."""
        return self._notes[engine].running if engine in self._notes else ()

    async def close(self) -> dict[str, int]:
        """Ends all engines; what they have done in all, those included that have died before."""
        asked = [
            asyncio.ensure_future(engine.last_note.remote()) for engine in self._engines.values()
        ]
        if asked:
            answered, _ = await asyncio.wait(asked, timeout=_ANSWER_WITHIN_S)
            self._notes.update(task.result() for task in answered if not task.exception())
        for engine in self._engines.values():
            ray.kill(engine)
        return {
            name: sum(getattr(note, name) for note in self._notes.values())
            for name in ("epochs_wasted", "compilations")
        }

    def _engine(self, slot: Slot) -> Any:
        remote = ray.remote(_RayEngine).options(
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=_CALLS_AT_A_TIME,
            scheduling_strategy=NodeAffinitySchedulingStrategy(slot.node, soft=False),
        )
        desk = ray.get_runtime_context().current_actor
        return remote.remote(self._settings, *self._data, self._slots.lanes, slot.gpus, desk)


class _RayEngine(Engine):
    """An engine that tells the desk what it does."""

    def __init__(
        self,
        settings: TrialSettings,
        train: Split,
        validation: Split,
        lanes: int,
        gpus: str | None,
        desk: Any,
    ) -> None:
        try:
            super().__init__(settings, train, validation, lanes, gpus, desk.tell.remote)
        except Exception as error:  # noqa: BLE001  # whatever it is: a GPU that isn't free yet
            # Ray starts a process again that died, and never one that raised here.
            traceback.print_exception(error)
            os._exit(1)

    async def last_note(self) -> tuple[str, Note]:
        """This process's name, and what it has done."""
        return self._name, await self.note()
