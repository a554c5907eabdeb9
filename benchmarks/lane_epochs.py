"""A process that trains lanes for a few seconds: what it got through, and what that took."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.training_loops import CONFIG

Form = Literal["alone", "in turn", "abreast"]

_OTHERS_READY_WITHIN_S = 900.0
_PEAK_RUNS = 5
_FAILED = "failed"


@dataclass(frozen=True)
class Work:
    """What such a process is to do.

    Attributes:
        dataset: on which it trains.
        data_dir: where that is.
        train_size: images to train on; None: all that aren't held back.
        validation_size: images to evaluate on.
        form: ``alone`` trains one trial as a search without lanes does.
        lanes: in one program.
        core: the core that it is kept on; None: it uses the GPU.
        measure_s: it trains whole epochs for at least so long.
        meeting: the directory in which it waits for the others of its kind.
        processes: of its kind, at the same time.
    """

    dataset: str
    data_dir: str
    train_size: int | None
    validation_size: int
    form: Form
    lanes: int
    core: int | None
    measure_s: float
    meeting: str
    processes: int

    def argument(self) -> str:
        """As the process is given it."""
        return json.dumps(asdict(self))


def trained(work: Work) -> dict[str, Any]:
    """Trains, and measures this process's device."""
    from mnist_tune import devices

    if work.core is None:
        devices.configure("gpu")
    else:
        os.sched_setaffinity(0, {work.core})
        devices.configure("cpu", threads=1)
    from mnist_tune import training
    from mnist_tune.datasets import load_dataset

    dataset = load_dataset(work.dataset, work.data_dir, work.validation_size, work.train_size)
    train, validation = map(training.device_data, (dataset.train, dataset.validation))
    start = time.perf_counter()
    epoch = _epochs(work, train, validation)
    compile_s = time.perf_counter() - start
    before = _bytes_in_use(work)
    epoch()
    _meet(work)
    # All processes of a machine have the same monotonic clock.
    begun = time.monotonic()
    epoch_s: list[float] = []
    while not epoch_s or sum(epoch_s) < work.measure_s:
        start = time.perf_counter()
        epoch()
        epoch_s.append(time.perf_counter() - start)
    ended = time.monotonic()
    memory_bytes = _most_bytes_in_use(work) - before
    _meet(work)
    return {
        "train_size": len(dataset.train),
        "validation_size": len(dataset.validation),
        "begun": begun,
        "ended": ended,
        "epoch_s": epoch_s,
        "compile_s": compile_s,
        "bytes_a_lane": memory_bytes / work.lanes,
        # Measured last: its matrices would count as memory. On a device that is shared it would
        # be a part of the peak.
        "peak_flop_per_s": _peak_flop_per_s(work) if work.processes == 1 else None,
    }


def _epochs(work: Work, train: Any, validation: Any) -> Callable[[], None]:
    """What trains and evaluates one more epoch of all lanes, compiled."""
    import jax
    import numpy as np

    from mnist_tune import lanes, training
    from mnist_tune.hparams import complete

    config = complete(CONFIG)
    hypers, batch_size = training.hypers(config, 100), config["batch_size"]
    if work.form == "alone":
        for program in training.programs(config, train, validation):
            program.compile()
    else:
        abreast = work.form == "abreast"
        lanes.program(config, train, validation, work.lanes, abreast).compile()
        training.programs(config, train, validation)[0].compile()
    states: list[training.State] = []
    number = 0

    def epoch() -> None:
        nonlocal states, number
        number += 1
        states = states or [
            training.initial_state({**config, "seed": seed}) for seed in range(work.lanes)
        ]
        if work.form == "alone":
            states = [training.train_epoch(states[0], train, hypers, np.int32(number), batch_size)]
            jax.block_until_ready(training.evaluate(states[0].params, validation))
            return
        turn = [lanes.Lane(state, hypers, number) for state in states]
        states, metrics = lanes.next_epoch(
            turn, train, validation, batch_size, work.lanes, work.form == "abreast"
        )
        jax.block_until_ready((states, metrics))

    return epoch


def _meet(work: Work) -> None:
    """Waits until all processes of its kind have come as far as this."""
    place = Path(work.meeting)
    turn = sum(name.startswith(f"{os.getpid()}-") for name in os.listdir(place))
    (place / f"{os.getpid()}-{turn}").touch()
    end = time.monotonic() + _OTHERS_READY_WITHIN_S
    while sum(name.endswith(f"-{turn}") for name in os.listdir(place)) < work.processes:
        if time.monotonic() > end or (place / _FAILED).exists():
            raise TimeoutError(f"not all {work.processes} processes have come")
        time.sleep(0.005)


def _bytes_in_use(work: Work) -> int:
    """The device's memory that this process uses; on a CPU what's resident, its peak forgotten."""
    if work.core is None:
        return int(_memory_stats()["bytes_in_use"])
    # Where that isn't allowed the peak holds what compiling took.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status_bytes("VmRSS")


def _most_bytes_in_use(work: Work) -> int:
    if work.core is None:
        return int(_memory_stats()["peak_bytes_in_use"])
    return _status_bytes("VmHWM")


def _memory_stats() -> dict[str, int]:
    import jax

    return jax.devices()[0].memory_stats() or {"bytes_in_use": 0, "peak_bytes_in_use": 0}


def _status_bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def _peak_flop_per_s(work: Work) -> float:
    """The best of a few large products in float32, in the precision that JAX has by default."""
    import jax
    import jax.numpy as jnp

    n = 8192 if work.core is None else 2048
    matrix = jnp.ones((n, n), jnp.float32)
    product = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    best_s = float("inf")
    for _ in range(1 + _PEAK_RUNS):
        start = time.perf_counter()
        jax.block_until_ready(product(matrix, matrix))
        best_s = min(best_s, time.perf_counter() - start)
    return 2 * n**3 / best_s


def main() -> None:
    """The process itself: its work as JSON in its argument, what came out on stdout."""
    work = Work(**json.loads(sys.argv[1]))
    try:
        sys.stdout.write(json.dumps(trained(work)) + "\n")
    except BaseException:
        # Or the others would wait for it.
        (Path(work.meeting) / _FAILED).touch()
        raise


if __name__ == "__main__":
    main()
