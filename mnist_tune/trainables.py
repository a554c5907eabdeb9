"""What Ray Tune runs a search's trials with: a process each, or lanes of processes they share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mnist_tune.datasets import Dataset
from mnist_tune.experiment import Experiment
from mnist_tune.ledger import Event
from mnist_tune.slots import Slots
from mnist_tune.winner import trial_settings


@contextmanager
def trainable(
    experiment: Experiment, dataset: Dataset, slots: Slots, counts: Event
) -> Iterator[Any]:
    """Tune's trainable for the time of a ``with``.

    Args:
        experiment: the search.
        dataset: its data.
        slots: how many trials share a process.
        counts: gets ``epochs_wasted`` and ``compilations`` in the end, if they do.
    """
    from ray import tune

    settings = trial_settings(experiment, slots)
    if slots.lanes == 1:
        from mnist_tune.trial import TrainingTrial

        yield tune.with_resources(
            tune.with_parameters(
                TrainingTrial,
                train=dataset.train,
                validation=dataset.validation,
                settings=settings,
            ),
            slots.share,
        )
        return
    from mnist_tune.engines import engines
    from mnist_tune.lane_trial import LaneTrial

    with engines(settings, slots, dataset, counts) as desk:
        yield tune.with_resources(
            tune.with_parameters(LaneTrial, desk=desk, settings=settings), slots.share
        )
