"""The programs that an engine runs its lanes with: compiled for a few sizes, in the background."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from mnist_tune import devices, lanes
from mnist_tune.hparams import Config, shapes_of
from mnist_tune.lanes import Lane
from mnist_tune.training import Data, Metrics, State

_IN_TURN_S = 1.0
"""In turn, lanes hear of their epochs when the last has had its own: about so long after."""


class Programs:
    """Runs epochs of lanes, in the program of the best size that is compiled.

    Args:
        train: the training set, on the device.
        validation: the validation set, on the device.
        most: lanes in one program, at most.
        abreast: how they run, see ``lanes``.

    Attributes:
        compilations: programs that were compiled, or found in the cache of compiled programs.
    """

    def __init__(self, train: Data, validation: Data, most: int, abreast: bool) -> None:
        self._train, self._validation = train, validation
        self._most, self._abreast = most, abreast
        self._sizes: defaultdict[str, dict[int, Future[None]]] = defaultdict(dict)
        self._limits: dict[str, int] = {}
        self._lane_s: dict[str, float] = {}
        self._compiler = ThreadPoolExecutor(1)
        self.compilations = 0

    def most(self, config: Config) -> int:
        """How many lanes of this configuration's shapes to run in one program, ≥ 1."""
        shapes = shapes_of(config)
        most = self._limits.get(shapes, self._most)
        if self._abreast:
            return most
        return max(1, min(most, int(_IN_TURN_S / self._lane_s.get(shapes, _IN_TURN_S))))

    def limit(self, config: Config, most: int) -> None:
        """Runs no more lanes of these shapes in one program from now on."""
        self._limits[shapes_of(config)] = max(1, most)

    def run(self, config: Config, turn: Sequence[Lane]) -> tuple[list[State], Metrics, float]:
        """Trains and evaluates one epoch of lanes of one configuration's shapes.

        Returns:
            The states; the metrics, NumPy's; and the seconds that it took, without compiling.
        """
        size = self._size(config, len(turn))
        start = time.perf_counter()
        states, metrics = lanes.next_epoch(
            turn, self._train, self._validation, config["batch_size"], size, self._abreast
        )
        metrics = jax.device_get(metrics)
        took_s = time.perf_counter() - start
        self._lane_s[shapes_of(config)] = took_s / len(turn)
        return states, metrics, took_s

    def _size(self, config: Config, live: int) -> int:
        """The size to run now; a better one is compiled meanwhile."""
        sizes = self._sizes[shapes_of(config)]
        wanted = lanes.size_for(live, self._most, self._abreast)
        if wanted not in sizes:
            sizes[wanted] = self._compiler.submit(self._compile, config, wanted)
        if not sizes[wanted].done():
            made = [size for size, each in sizes.items() if each.done() and not each.exception()]
            ready = [size for size in made if size >= live]
            if ready:
                return min(ready)
        try:
            sizes[wanted].result()
        except Exception:
            # Raised again, and not kept: it may fit another time.
            del sizes[wanted]
            raise
        return wanted

    def _compile(self, config: Config, size: int) -> None:
        program = lanes.program(config, self._train, self._validation, size, self._abreast)
        with devices.compiling_alone():
            program.compile()
        self.compilations += 1
