"""How many lanes pay on a device: measured there for a moment, before a search begins."""

from __future__ import annotations

import time
from collections.abc import Callable

from mnist_tune import devices
from mnist_tune.cluster import from_worker
from mnist_tune.datasets import Dataset, Split
from mnist_tune.experiment import Experiment
from mnist_tune.hparams import Config
from mnist_tune.options import MOST_LANES, TrialSettings
from mnist_tune.slots import Slots, with_lanes
from mnist_tune.winner import trial_settings

_STEPS = 20
_LEAST_GAIN = 1.2
_MOST_OF_MEMORY = 0.8


def sized(experiment: Experiment, dataset: Dataset, slots: Slots) -> Slots:
    """Slots with as many lanes as pay, if that was left open; on a CPU that's one.

    Raises:
        SearchError: it could not be measured.
    """
    options, to_run = experiment.options, experiment.results.to_run
    whole = slots.gpus == 1
    if options.lanes != "auto" or not whole or to_run <= slots.count:
        return slots
    import ray

    remote = ray.remote(num_cpus=slots.cpus, num_gpus=slots.gpus)(lanes_that_pay)
    config = experiment.results.trials[0].config
    most = min(MOST_LANES, -(-to_run // slots.count))
    try:
        lanes = ray.get(
            remote.remote(config, dataset.train, trial_settings(experiment, slots), most)
        )
    except ray.exceptions.RayError as error:
        raise from_worker(error, "how many lanes pay could not be measured") from None
    return with_lanes(slots, lanes, options)


def lanes_that_pay(config: Config, train: Split, settings: TrialSettings, most: int) -> int:
    """Measures how much sooner a few steps of more lanes are through on this process's device.

    Args:
        config: of the shapes to measure with.
        train: the training set.
        settings: the search's.
        most: no more lanes than this.
    """
    devices.configure(settings.device, settings.threads)
    import jax

    from mnist_tune import lanes, training

    images = min(len(train), _STEPS * config["batch_size"])
    data = training.device_data(Split(train.images[:images], train.labels[:images]))
    abreast = lanes.are_abreast()

    def lanes_per_s(count: int) -> float:
        lane = lanes.Lane(training.initial_state(config), training.hypers(config, 1), 1)

        def run() -> None:
            jax.block_until_ready(
                lanes.next_epoch([lane] * count, data, data, config["batch_size"], count, abreast)
            )

        run()
        start = time.perf_counter()
        run()
        return count / (time.perf_counter() - start)

    return most_that_pay(lanes_per_s, most, _memory_left)


def most_that_pay(lanes_per_s: Callable[[int], float], most: int, fits: Callable[[], bool]) -> int:
    """Takes up to four times as many lanes for as long as that gives a good deal more a second.

    Args:
        lanes_per_s: measures so many lanes.
        most: no more lanes than this, ≥ 1.
        fits: whether the memory would do for four times what was measured last.
    """
    paid, best = 1, lanes_per_s(1)
    while paid < most and fits():
        lanes = min(4 * paid, most)
        try:
            rate = lanes_per_s(lanes)
        except Exception:  # noqa: BLE001  # out of memory, by whatever name
            break
        if rate < _LEAST_GAIN * best:
            break
        paid, best = lanes, rate
    return paid


def _memory_left() -> bool:
    import jax

    seen = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" not in seen:
        return True
    return bool(4 * seen["peak_bytes_in_use"] < _MOST_OF_MEMORY * seen["bytes_limit"])
