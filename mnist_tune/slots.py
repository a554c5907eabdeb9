"""How many trials run at a time, on the nodes that are there or that come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from mnist_tune.errors import ConfigError
from mnist_tune.options import SearchOptions

Say = Callable[[str], None]
"""Takes a line for a person to read."""


_UNITS = 10_000


@dataclass(frozen=True)
class Slots:
    """What one slot has, how many trials share it, and how many trials run at a time.

    Attributes:
        cpus: CPU cores a slot.
        gpus: GPUs a slot.
        count: trials at a time.
        lanes: trials a slot.
    """

    cpus: float
    gpus: float
    count: int
    lanes: int = 1

    @property
    def share(self) -> dict[str, float]:
        """What Ray is asked for, for one trial, in its units of 1/10,000."""
        return {"cpu": self._share_of(self.cpus), "gpu": self._share_of(self.gpus)}

    def _share_of(self, slot: float) -> float:
        # Rounded down: as many shares as lanes fit into a slot.
        return max(1, round(slot * _UNITS) // self.lanes) / _UNITS if slot else 0.0


@dataclass(frozen=True)
class Node:
    """A machine of a Ray cluster.

    Attributes:
        node_id: Ray's name for it.
        host: its own name.
        address: its address in the cluster's network.
        cpus: the CPU cores that Ray may use there.
        gpus: the GPUs that Ray may use there.
    """

    node_id: str
    host: str
    address: str
    cpus: float
    gpus: float


def nodes() -> list[Node]:
    """The nodes that are alive in the cluster that is connected."""
    import ray

    return [
        Node(
            node["NodeID"],
            node["NodeManagerHostname"],
            node["NodeManagerAddress"],
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def slots_for(options: SearchOptions, nodes: Iterable[tuple[float, float]]) -> Slots:
    """What each trial gets of these nodes; a trial has all it gets on one of them.

    Args:
        options: the search's.
        nodes: CPU cores and GPUs of each.

    Returns:
        Slots; ``count`` is 0 if no trial could start.
    """
    sizes = list(nodes)
    gpus_per_trial = options.gpus_per_trial
    if gpus_per_trial is None:
        gpus_per_trial = 1.0 if any(gpus for _, gpus in sizes) else 0.0
    slots = Slots(options.cpus_per_trial, gpus_per_trial, 0)
    count = sum(_fit(slots, cpus, gpus) for cpus, gpus in sizes)
    return with_lanes(
        replace(slots, count=count), 1 if options.lanes == "auto" else options.lanes, options
    )


def with_lanes(slots: Slots, lanes: int, options: SearchOptions) -> Slots:
    """Has so many trials share each of these slots, which have one each."""
    count = slots.count * lanes
    return replace(slots, lanes=lanes, count=min(count, options.max_concurrent or count))


def local_slots(options: SearchOptions, cpus: float, gpus: float) -> Slots:
    """What each trial gets of one machine.

    Raises:
        ConfigError: no trial could ever start.
    """
    slots = slots_for(options, [(cpus, gpus)])
    if slots.count < 1:
        raise ConfigError(
            f"--cpus-per-trial {slots.cpus:g} --gpus-per-trial {slots.gpus:g} "
            f"must fit what is there: {cpus:g} CPU cores, {gpus:g} GPUs"
        )
    return slots


def cluster_slots(options: SearchOptions, trials: int, say: Say) -> Slots:
    """What each trial gets of the cluster that is connected; waits for a node if none has room.

    Args:
        options: the search's.
        trials: as many as are to run.
        say: is told what is waited for.

    Returns:
        Slots, of the nodes that are there; others can join later.
    """
    slots = slots_for(options, _sizes())
    if not slots.count:
        say(
            f"no node has room for a trial ({slots.cpus:g} CPU cores, {slots.gpus:g} GPUs): "
            f"{_described(nodes())}; waiting for one to join (Ctrl-C ends it)"
        )
        wanted = min(trials, options.max_concurrent or trials)
        with _requested(slots, wanted):
            while not (slots := slots_for(options, _sizes())).count:
                time.sleep(1)
    return slots


def has_room(slots: Slots, node: Node) -> bool:
    """Whether a trial can run on a node."""
    return slots_on(slots, node) > 0


def slots_on(slots: Slots, node: Node) -> int:
    """How many slots a node has."""
    return _fit(slots, node.cpus, node.gpus)


def _sizes() -> list[tuple[float, float]]:
    return [(node.cpus, node.gpus) for node in nodes()]


@contextmanager
def _requested(slots: Slots, count: int) -> Iterator[None]:
    """Has an autoscaler bring nodes for so many trials, for the time of a ``with``."""
    from ray.autoscaler.sdk import request_resources

    bundle = {"CPU": slots.share["cpu"], "GPU": slots.share["gpu"]}
    request_resources(bundles=[{name: each for name, each in bundle.items() if each}] * count)
    try:
        yield
    finally:
        request_resources(bundles=[])


def _described(there: list[Node]) -> str:
    return "; ".join(
        f"{node.address} has {node.cpus:g} CPU cores, {node.gpus:g} GPUs" for node in there
    )


def _fit(slots: Slots, cpus: float, gpus: float) -> int:
    """How many slots fit, in Ray's units."""
    fits = [
        round(total * _UNITS) // max(1, round(each * _UNITS))
        for total, each in ((cpus, slots.cpus), (gpus, slots.gpus))
        if each
    ]
    return min(fits)
