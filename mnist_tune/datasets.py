"""The data sets: a name → arrays of images and labels, prepared once, verified at every load.

Preparing runs in a process of its own (``prepare.py``), so that TensorFlow and scikit-learn are
never imported here: no seconds, no memory, no GPU lost to them, and none of their chatter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mnist_tune import errors
from mnist_tune.data_dir import checked_data_dir, publish, read_arrays, staging
from mnist_tune.data_sources import (
    DATASETS,
    DEFAULT_DATASET,
    check_sizes,
    default_validation_size,
    options,
    source_of,
)
from mnist_tune.errors import DataFileError, DataUnavailableError, InputError

__all__ = [
    "DATASETS",
    "DEFAULT_DATASET",
    "Dataset",
    "DatasetInfo",
    "Split",
    "check_sizes",
    "dataset_info",
    "default_validation_size",
    "import_dataset",
    "load_dataset",
    "prepare_dataset",
]

CACHE_DIR = "mnist-tune"

Talk = Callable[[str], None]
"""Takes a line that is not a result."""


@dataclass(frozen=True)
class Split:
    """A part of a data set.

    Args:
        images: ``uint8 [n, 28, 28, 1]``.
        labels: ``int32 [n]``, 0 to 9.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A data set in its three parts, read-only and mapped into memory.

    Args:
        name: its name in ``DATASETS``.
        checksum: SHA-256 over all its arrays, in hex; the same whatever the sizes of the parts.
        train: to train on.
        validation: to choose a configuration by; may be empty.
        test: to score the chosen configuration on.
    """

    name: str
    checksum: str
    train: Split
    validation: Split
    test: Split


def load_dataset(
    name: str = DEFAULT_DATASET,
    data_dir: str | Path | None = None,
    validation_size: int = 0,
    train_size: int | None = None,
    download: bool = True,
    *,
    talk: Talk | None = None,
    verbose: bool = False,
) -> Dataset:
    """Returns a data set; prepares it on first use.

    Args:
        name: a name in ``DATASETS``.
        data_dir: TFDS's data directory; ``default_data_dir()`` if None.
        validation_size: how many images at the end of the training set to hold back; ≥ 0 and
            less than all of them.
        train_size: how many images at the start of the remainder to train on; ≥ 1, all if None.
        download: whether a data set that is not here may be downloaded.
        talk: takes a line when the data set has to be prepared; to stderr if None.
        verbose: whether the libraries that prepare it may write to stderr.

    Raises:
        ConfigError: an unknown name, or a size out of range.
        InputError: the data directory cannot be used.
        DataFileError: a prepared file is missing, truncated or altered.
        DataUnavailableError: the data set is not here and cannot be downloaded.
    """
    rest = check_sizes(name, validation_size, train_size)
    root = checked_data_dir(data_dir)
    if not (root / CACHE_DIR / name).exists():
        _prepare(name, root, download=download, talk=talk, verbose=verbose)
    arrays, checksum = _read(name, root)
    images, labels = arrays["train_images"], arrays["train_labels"]
    return Dataset(
        name=name,
        checksum=checksum,
        train=Split(images[:rest][:train_size], labels[:rest][:train_size]),
        validation=Split(images[rest:], labels[rest:]),
        test=Split(arrays["test_images"], arrays["test_labels"]),
    )


def prepare_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    talk: Talk | None = None,
    verbose: bool = False,
) -> Dataset:
    """Returns a whole data set; unlike ``load_dataset``, rebuilds arrays that are damaged.

    Args:
        name: as in ``load_dataset``; so are the others, and the errors.
        data_dir: as there.
        talk: as there.
        verbose: as there.
    """
    source_of(name)
    root = checked_data_dir(data_dir)
    if (root / CACHE_DIR / name).exists():
        try:
            _read(name, root)
        except DataFileError:
            _prepare(name, root, replace=True, talk=talk, verbose=verbose)
    return load_dataset(name, root, talk=talk, verbose=verbose)


def import_dataset(
    name: str,
    directory: str | Path,
    data_dir: str | Path | None = None,
    *,
    talk: Talk | None = None,
    verbose: bool = False,
) -> Dataset:
    """Prepares a data set from its four IDX files in place of the download, and returns it whole.

    Args:
        name: ``mnist``, ``fashion_mnist`` or ``kmnist``.
        directory: where the files are, under the names that TFDS registers.
        data_dir: as in ``load_dataset``.
        talk: as in ``load_dataset``.
        verbose: as in ``load_dataset``.

    Raises:
        ConfigError: an unknown name.
        InputError: no such directory, a data set that needs no import, or a data directory that
            cannot be used.
        DataFileError: a file is missing, or is not the one that TFDS registers.
    """
    if source_of(name).origin != "tfds":
        raise InputError(f"{name} needs no import: it comes with scikit-learn")
    idx_dir = Path(os.path.abspath(os.path.expanduser(directory)))
    if not idx_dir.is_dir():
        raise InputError(f"{idx_dir}: must be the directory that holds the four IDX files")
    root = checked_data_dir(data_dir)
    _prepare(name, root, idx_dir=idx_dir, replace=True, talk=talk, verbose=verbose)
    return load_dataset(name, root, talk=talk, verbose=verbose)


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a data set on this machine, without preparing it.

    Args:
        name: its name in ``DATASETS``.
        state: ``ready``, ``absent`` or ``damaged``.
        path: where its arrays are, or will be.
        train_images: how many to train and validate on.
        test_images: how many to test on.
        size_bytes: of its arrays on disk; 0 unless ready.
        checksum: as in ``Dataset``; None unless ready.
        problem: what is damaged and what to do about it; None unless damaged.
    """

    name: str
    state: Literal["ready", "absent", "damaged"]
    path: str
    train_images: int
    test_images: int
    size_bytes: int = 0
    checksum: str | None = None
    problem: str | None = None


def dataset_info(name: str, data_dir: str | Path | None = None) -> DatasetInfo:
    """Returns what is known about a data set on this machine; verifies it, changes nothing.

    Args:
        name: a name in ``DATASETS``.
        data_dir: as in ``load_dataset``.

    Raises:
        ConfigError: an unknown name.
        InputError: the data directory cannot be used.
    """
    source = source_of(name)
    root = checked_data_dir(data_dir)
    place = root / CACHE_DIR / name
    counts = (str(place), source.train_images, source.test_images)
    if not place.exists():
        return DatasetInfo(name, "absent", *counts)
    try:
        _, checksum = _read(name, root)
    except DataFileError as error:
        return DatasetInfo(name, "damaged", *counts, problem=str(error))
    size_bytes = sum(file.stat().st_size for file in place.iterdir())
    return DatasetInfo(name, "ready", *counts, size_bytes, checksum)


def _read(name: str, root: Path) -> tuple[Mapping[str, npt.NDArray[Any]], str]:
    try:
        return read_arrays(root / CACHE_DIR / name, source_of(name).arrays)
    except DataFileError as error:
        fix = f"run `mnist-tune data prepare{options(name, root)}` to build it anew"
        raise DataFileError(f"{error}; {fix}") from error


def _prepare(
    name: str,
    root: Path,
    *,
    idx_dir: Path | None = None,
    download: bool = True,
    replace: bool = False,
    talk: Talk | None,
    verbose: bool,
) -> None:
    (talk or _to_stderr)(f"preparing {name} (once) in {root}…")
    place = root / CACHE_DIR / name
    with staging(place) as work:
        request = {
            "name": name,
            "root": str(root),
            "work": str(work),
            "idx_dir": idx_dir and str(idx_dir),
            "download": download,
        }
        _run_prepare(request, verbose)
        for version in (work / "tfds" / name).glob("*"):
            publish(version, root / name / version.name, replace=replace)
        publish(work / "arrays", place, replace=replace)


def _run_prepare(request: Mapping[str, object], verbose: bool) -> None:
    # This process's own path, so that the other one finds the same packages and nothing in the
    # current directory that happens to have the name of one.
    start = f"import sys; sys.path[:] = {sys.path}; from mnist_tune.prepare import main; main()"
    process = subprocess.run(
        [sys.executable, "-c", start, json.dumps(request)],
        stdout=subprocess.PIPE,
        stderr=None if verbose else subprocess.DEVNULL,
        text=True,
        check=False,
    )
    if process.stdout:
        answer = json.loads(process.stdout)
        raise getattr(errors, answer["error"])(answer["message"])
    if process.returncode:
        raise DataUnavailableError(
            f"{request['name']} cannot be prepared: the process that does it ended with status "
            f"{process.returncode}; --verbose shows what it said"
        )


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
