"""A search of many light trials on a Ray cluster, watched from within its driver.

python -m benchmarks.paced ADDRESS RAY_DIRECTORY STORAGE DATA_DIR CONCURRENT WINDOW_S
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import ray

from benchmarks.settings import SPACE
from benchmarks.simulated import CheckpointedTrial
from benchmarks.usage import available_bytes, resident_bytes, usage
from mnist_tune.checkpoints import write_atomically
from mnist_tune.errors import InterruptedSearch
from mnist_tune.ledger import Event

PACES_S = {"steady": 5.0, "saturated": 0.0}
"""A trial's epochs take so long."""

LEAST_FREE_BYTES = 4 << 30
_START_PACE_S = 15.0
_TRIALS = 5_000
_NAME, _PACE = "run", "pace"


class PacedTrial(CheckpointedTrial):
    """Sleeps for an epoch, as long as the file ``pace`` says; reports how long it had waited.

    What it gives as ``epoch_s`` is the time from this process's last report to this epoch's
    begin: what an accelerator would stand idle for the driver.
    """

    _reported_s: float | None = None

    def setup(self, config: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Begins the first trial."""
        super().setup(config, *args, **kwargs)
        self._node = ray.get_runtime_context().get_node_id()
        assert isinstance(self._settings.checkpoints, Path)
        self._pace = self._settings.checkpoints.parent.parent / _PACE

    def step(self) -> dict[str, Any]:
        """Reports an epoch."""
        waited_s = time.monotonic() - self._reported_s if self._reported_s else 0.0
        time.sleep(float(self._pace.read_text()))
        reported = {**super().step(), "epoch_s": round(waited_s, 6), "node": self._node}
        self._reported_s = time.monotonic()
        return reported


class Snapshot(NamedTuple):
    """A moment: CPU time so far, of the driver and of each kind of Ray's processes."""

    time_s: float
    cpu_s: dict[str, float]


def course(
    storage: Path, ray_directory: Path, concurrent: int, window_s: float
) -> Generator[None, Event, dict[str, Any]]:
    """Is sent every report; returns what it saw when all trials have run at each pace."""
    began_s, empty_bytes = time.monotonic(), resident_bytes()
    workers: set[str] = set()
    nodes: set[str] = set()
    while len(workers) < concurrent:
        event = yield
        if event["worker"] not in workers and available_bytes() < LEAST_FREE_BYTES:
            raise SystemExit(f"memory is short with {len(workers)} trials")
        workers.add(event["worker"])
        nodes.add(event["node"])
    record: dict[str, Any] = {
        "concurrent": concurrent,
        "nodes": len(nodes),
        "start_s": time.monotonic() - began_s,
        "driver_bytes": {"empty": empty_bytes, "full": resident_bytes()},
    }
    for name, pace_s in PACES_S.items():
        write_atomically(storage / _PACE, str(pace_s).encode(), sync=False)
        settled_s = time.monotonic() + (_START_PACE_S if name == "steady" else PACES_S["steady"])
        while time.monotonic() < settled_s + 2:
            yield
        before, waits_s = _snapshot(ray_directory), []
        while time.monotonic() < before.time_s + window_s:
            waits_s.append((yield)["epoch_s"])
        record[name] = _paced(before, _snapshot(ray_directory), waits_s)
        if name == "steady":
            record["processes"] = {
                kind: {"count": each.processes, "pss_bytes": each.pss_bytes}
                for kind, each in usage(ray_directory, memory=True).items()
            }
            record["available_bytes"] = available_bytes()
    return record


def _snapshot(ray_directory: Path) -> Snapshot:
    used = {kind: each.cpu_s for kind, each in usage(ray_directory, memory=False).items()}
    return Snapshot(time.monotonic(), {**used, "driver": time.process_time()})


def _paced(before: Snapshot, after: Snapshot, waits_s: list[float]) -> dict[str, Any]:
    """What was seen of one pace."""
    wall_s = after.time_s - before.time_s
    ranked = sorted(waits_s)
    return {
        "wall_s": wall_s,
        "reports": len(ranked),
        "wait_s": {str(q): ranked[len(ranked) * q // 100] for q in (50, 95, 99)},
        "cores": {
            kind: (cpu_s - before.cpu_s.get(kind, 0.0)) / wall_s
            for kind, cpu_s in after.cpu_s.items()
        },
    }


def main() -> None:
    """Runs the search and prints its record."""
    from mnist_tune import driver, search

    address, ray_directory, storage, data_dir, concurrent, window_s = sys.argv[1:]
    write_atomically(Path(storage) / _PACE, str(_START_PACE_S).encode(), sync=False)
    seen = course(Path(storage), Path(ray_directory), int(concurrent), float(window_s))
    record: dict[str, Any] = {}

    def show(_experiment: object, event: Event) -> None:
        nonlocal record
        if event["event"] == "session":
            next(seen)
        elif event["event"] == "report":
            try:
                seen.send(event)
            except StopIteration as end:
                record = end.value
                raise KeyboardInterrupt from None

    try:
        with (
            patch("mnist_tune.trial.TrainingTrial", PacedTrial),
            patch.object(driver, "finish_best", lambda *_: None),
        ):
            search(
                SPACE,
                storage=storage,
                name=_NAME,
                show=show,
                dataset="digits",
                data_dir=data_dir,
                num_samples=_TRIALS,
                address=address,
            )
    except InterruptedSearch:
        sys.stdout.write(f"\n{json.dumps(record)}\n")
    else:
        raise SystemExit("the search was over before all was measured")


if __name__ == "__main__":
    main()
