"""The data sets that there are, where each comes from, and what to do when one is missing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from mnist_tune.data_dir import Shapes, default_data_dir
from mnist_tune.errors import ConfigError
from mnist_tune.hparams import nearest

IMAGE_SHAPE = (28, 28, 1)


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, and how many images it has.

    Args:
        origin: ``tfds`` (TensorFlow Datasets) or ``sklearn`` (bundled, needs no download).
        train_images: how many to train and validate on.
        test_images: how many to test on.
    """

    origin: Literal["tfds", "sklearn"]
    train_images: int
    test_images: int

    @property
    def arrays(self) -> Shapes:
        """The arrays it is kept in, in the order in which its checksum takes them."""
        return {
            "train_images": ((self.train_images, *IMAGE_SHAPE), np.uint8),
            "train_labels": ((self.train_images,), np.int32),
            "test_images": ((self.test_images, *IMAGE_SHAPE), np.uint8),
            "test_labels": ((self.test_images,), np.int32),
        }


DATASETS: Mapping[str, Source] = MappingProxyType(
    {
        "mnist": Source("tfds", 60_000, 10_000),
        "fashion_mnist": Source("tfds", 60_000, 10_000),
        "kmnist": Source("tfds", 60_000, 10_000),
        "digits": Source("sklearn", 1437, 360),
    }
)
DEFAULT_DATASET = "mnist"


def source_of(name: str) -> Source:
    """Returns where the data set ``name`` comes from.

    Raises:
        ConfigError: the name is not known.
    """
    if name not in DATASETS:
        raise ConfigError(f"--dataset: unknown data set {name!r}; {nearest(name, DATASETS)}")
    return DATASETS[name]


def default_validation_size(name: str) -> int:
    """Returns how many training images to hold back by default to choose a configuration by.

    Raises:
        ConfigError: the name is not known.
    """
    return min(5000, source_of(name).train_images // 5)


def check_sizes(name: str, validation_size: int, train_size: int | None) -> int:
    """Returns how many training images are left after ``validation_size`` are held back.

    Args:
        name: a name in ``DATASETS``.
        validation_size: ≥ 0 and less than the training images.
        train_size: how many of those left to train on, ≥ 1; None for all.

    Raises:
        ConfigError: an unknown name, or a size out of range.
    """
    total = source_of(name).train_images
    rest = total - validation_size
    if not 0 <= validation_size < total:
        raise ConfigError(
            f"--validation-size must be ≥ 0 and < {total}, the training images of {name}; "
            f"got {validation_size}"
        )
    if train_size is not None and not 1 <= train_size <= rest:
        raise ConfigError(
            f"--train-size must be ≥ 1 and ≤ {rest}, the training images of {name} "
            f"less {validation_size} for validation; got {train_size}"
        )
    return rest


def options(name: str, root: Path) -> str:
    """Returns the options that a suggested ``mnist-tune data`` command needs."""
    default = default_data_dir().absolute()
    return f" --dataset {name}" + (
        "" if root == default else f" --data-dir {shlex.quote(str(root))}"
    )


def ways_out(name: str, root: Path, reason: str) -> str:
    """Returns the line that says that a data set is not here, why, and what to do."""
    return (
        f"{name} is not in {root} and cannot be downloaded ({reason}): import its four IDX files "
        f"with `mnist-tune data import DIR{options(name, root)}`, "
        "or use `--dataset digits`, which needs no download"
    )
