"""What every peer is asked to do, and how it answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Config = dict[str, float]
"""``learning_rate`` and ``beta``."""


class Arrays(NamedTuple):
    """Pixels in [0, 1] as float32 ``[n, 28, 28, 1]``, labels as int32 ``[n]``."""

    images: NDArray[np.float32]
    labels: NDArray[np.int32]


class Splits(NamedTuple):
    """To train on, to choose by, to score the chosen one on."""

    train: Arrays
    validation: Arrays
    test: Arrays


@dataclass(frozen=True)
class Task:
    """A search.

    Attributes:
        dataset: a data set of mnist-tune.
        data_dir: where it is.
        train_size: images to train on; None: all that aren't held back.
        validation_size: images held back to choose by.
        epochs: of a trial that is never stopped.
        configs: one a trial.
        directory: where files may be left.
    """

    dataset: str
    data_dir: str
    train_size: int | None
    validation_size: int
    epochs: int
    configs: list[Config]
    directory: str

    def write(self, path: Path) -> None:
        """Writes the task file."""
        path.write_text(json.dumps(asdict(self)))


def read_task() -> Task:
    """The task that the script was given on its command line."""
    return Task(**json.loads(Path(sys.argv[1]).read_text()))


def load(task: Task) -> Splits:
    """The task's data: the arrays that mnist-tune itself trains on, as float32."""
    from mnist_tune.datasets import Split, load_dataset

    def arrays(split: Split) -> Arrays:
        # Copies: PyTorch wants arrays that it could write to.
        return Arrays(split.images.astype(np.float32) / np.float32(255), np.array(split.labels))

    data = load_dataset(task.dataset, task.data_dir, task.validation_size, task.train_size)
    return Splits(arrays(data.train), arrays(data.validation), arrays(data.test))


def answer(
    config: Mapping[str, Any], validation: float, test: float, epochs: int, trials: int
) -> None:
    """Prints what came out.

    Args:
        config: the best configuration.
        validation: its validation accuracy, a fraction in [0, 1].
        test: its test accuracy.
        epochs: trained by all trials together.
        trials: how many configurations were tried.
    """
    record = {
        "config": {name: config[name] for name in ("learning_rate", "beta")},
        "validation_accuracy": validation,
        "test_accuracy": test,
        "epochs": epochs,
        "trials": trials,
    }
    sys.stdout.write(f"\n{json.dumps(record)}\n")
