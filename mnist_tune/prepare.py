"""Prepares a data set once, as a process of its own: ``python -m mnist_tune.prepare REQUEST``.

The only module that imports TensorFlow, TensorFlow Datasets (TFDS) and scikit-learn. It works in
a directory that its parent gives it and removes. What the libraries print goes to stderr; stdout
holds the answer alone: nothing, or one error as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from mnist_tune.data_dir import Array, file_sha256, write_arrays
from mnist_tune.data_sources import DATASETS, options, ways_out
from mnist_tune.errors import DataFileError, DataUnavailableError, MnistTuneError

_ANSWER_TIMEOUT_S = 10
_MAX_IDX_BYTES = 64 << 20


def prepare(name: str, root: Path, work: Path, idx_dir: Path | None, download: bool) -> None:
    """Writes a data set's arrays to ``work/arrays``, and TFDS's files, if new, to ``work/tfds``.

    Args:
        name: a name in ``DATASETS``.
        root: the data directory; only read.
        work: an empty directory in the same file system.
        idx_dir: where the four IDX files are; None to use TFDS's files or to download them.
        download: whether the network may be used.

    Raises:
        DataFileError: an IDX file, or a file of TFDS, is missing, truncated or altered.
        DataUnavailableError: the files cannot be downloaded.
    """
    if DATASETS[name].origin == "sklearn":
        write_arrays(work / "arrays", digits(), "scikit-learn load_digits")
        return
    import tensorflow_datasets as tfds

    version = str(tfds.builder_cls(name).VERSION)
    prepared = root / name / version
    if idx_dir is None and prepared.is_dir():
        arrays = _read_prepared(name, prepared, root)
    else:
        if idx_dir is not None:
            check_idx_files(name, idx_dir)
        elif not download:
            raise DataUnavailableError(ways_out(name, root, "not to be downloaded"))
        else:
            _check_network(name, root)
        _run_tfds(name, root, work, idx_dir)
        arrays = _read_tfds(name, work / "tfds")
    write_arrays(work / "arrays", arrays, f"tensorflow-datasets {name}/{version}")


def digits() -> dict[str, Array]:
    """Returns scikit-learn's bundled digits in MNIST's form, with a fixed split.

    The 8×8 images are enlarged three times and padded to 28×28. Their order is shuffled once:
    scikit-learn's goes by writer, and the writers at its end are harder to read (a support
    vector machine scores 94 % on the last 360 images and 99 % on any 360 at random), so that
    validation would not foretell the test.
    """
    from sklearn.datasets import load_digits

    source = DATASETS["digits"]
    bundled = load_digits()
    # RandomState, as its stream is the same in every version of NumPy; default_rng's is not.
    order = np.random.RandomState(0).permutation(len(bundled.target))
    grey = np.rint(bundled.images[order] * (255 / 16)).astype(np.uint8)
    enlarged = np.kron(grey, np.ones((1, 3, 3), np.uint8))
    images = np.pad(enlarged, ((0, 0), (2, 2), (2, 2)))[..., np.newaxis]
    labels = bundled.target[order].astype(np.int32)
    return {
        "train_images": images[: source.train_images],
        "train_labels": labels[: source.train_images],
        "test_images": images[source.train_images :],
        "test_labels": labels[source.train_images :],
    }


def check_idx_files(name: str, directory: Path) -> None:
    """Checks the four IDX files against the sizes and SHA-256 sums that TFDS registers.

    Args:
        name: ``mnist``, ``fashion_mnist`` or ``kmnist``.
        directory: where the files are.

    Raises:
        DataFileError: one line for each file that is missing or not the registered one.
    """
    problems = []
    for url, info in _registered(name).items():
        path = directory / info.filename
        try:
            if not path.is_file():
                problems.append(f"{path}: missing (TFDS has it from {url})")
                continue
            size_bytes = path.stat().st_size
            # A file that is far too large isn't read.
            sha256 = file_sha256(path) if size_bytes <= _MAX_IDX_BYTES else "not computed"
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            continue
        if size_bytes != info.size or sha256 != info.checksum:
            problems.append(
                f"{path}: not {name}'s file{_whose(sha256)}: {size_bytes} bytes, sha256 "
                f"{sha256}; must be {int(info.size)} bytes, sha256 {info.checksum} (from {url})"
            )
    if problems:
        raise DataFileError(
            "\n".join(problems) + "\nNothing was imported: get these files again, then repeat it"
        )


def _registered(name: str) -> Mapping[str, Any]:
    """What TFDS registers for a data set: address → size, SHA-256, file name."""
    import tensorflow_datasets as tfds

    infos: Mapping[str, Any] = tfds.builder_cls(name).url_infos
    return infos


def _whose(sha256: str) -> str:
    """A hint for a file that belongs to another data set."""
    for name, source in DATASETS.items():
        if source.origin == "tfds" and any(
            info.checksum == sha256 for info in _registered(name).values()
        ):
            return f" but {name}'s (--dataset {name})"
    return ""


def _check_network(name: str, root: Path) -> None:
    """Asks for one file's first bytes, for TFDS tries a host that is not there for minutes.

    ``requests`` is what TFDS downloads with, so that proxies and certificates are the same.
    """
    import requests

    url = next(iter(_registered(name)))
    host = urlsplit(url).hostname
    try:
        with requests.get(url, stream=True, timeout=_ANSWER_TIMEOUT_S) as answer:
            if not answer.ok:
                reason = f"{host} answers with HTTP status {answer.status_code}"
                raise DataUnavailableError(ways_out(name, root, reason))
    except requests.RequestException as error:
        reason = f"{host} cannot be reached: {type(error).__name__}"
        raise DataUnavailableError(ways_out(name, root, reason)) from error


def _run_tfds(name: str, root: Path, work: Path, idx_dir: Path | None) -> None:
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    try:
        tfds.builder(name, data_dir=work / "tfds").download_and_prepare(
            # Not TFDS's own download directory: there it takes a file that an import of another
            # data set extracted under the same name for this one's, and leaves partial downloads.
            download_dir=work / "downloads",
            download_config=tfds.download.DownloadConfig(manual_dir=idx_dir),
        )
    except NonMatchingChecksumError as error:
        if idx_dir is not None:
            raise DataFileError(f"{idx_dir}: a file changed while it was imported") from error
        reason = "what was received has the wrong checksum"
        raise DataUnavailableError(ways_out(name, root, reason)) from error
    except (requests.RequestException, tfds.download.DownloadError) as error:
        reason = f"{type(error).__name__} on the way"
        raise DataUnavailableError(ways_out(name, root, reason)) from error


def _read_prepared(name: str, prepared: Path, root: Path) -> dict[str, Array]:
    """Reads files that TFDS prepared at another time, maybe for someone else."""
    try:
        arrays = _read_tfds(name, root)
    except Exception as error:  # TFDS and TensorFlow raise a dozen unrelated types here
        raise DataFileError(
            f"{prepared}: TensorFlow Datasets cannot read its own files ({_reason(error)}); "
            f"remove this directory, then run `mnist-tune data prepare{options(name, root)}`"
        ) from error
    for array, (shape, _) in DATASETS[name].arrays.items():
        if arrays[array].shape != shape:
            raise DataFileError(
                f"{prepared}: {array} must be {list(shape)}; it is {list(arrays[array].shape)}; "
                f"remove this directory, then run `mnist-tune data prepare{options(name, root)}`"
            )
    return arrays


def _read_tfds(name: str, data_dir: Path) -> dict[str, Array]:
    import tensorflow as tf
    import tensorflow_datasets as tfds

    tf.config.set_visible_devices([], "GPU")
    builder = tfds.builder(name, data_dir=data_dir)
    arrays = {}
    for split in ("train", "test"):
        examples = tfds.as_numpy(
            builder.as_dataset(
                split=split,
                batch_size=-1,
                # One file after the other: the order must not depend on how many there are.
                read_config=tfds.ReadConfig(interleave_cycle_length=1),
            )
        )
        arrays[f"{split}_images"] = examples["image"]
        arrays[f"{split}_labels"] = examples["label"].astype(np.int32)
    return arrays


def _reason(error: Exception) -> str:
    """What went wrong, in a line: TFDS names long paths first and the cause last."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    short = said if len(said) <= 300 else f"{said[:150]} … {said[-150:]}"
    return getattr(error, "strerror", None) or short


def main() -> None:
    """Does what ``sys.argv[1]`` asks for: the arguments of ``prepare`` as JSON."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    request = json.loads(sys.argv[1])
    idx_dir = request["idx_dir"] and Path(request["idx_dir"])
    name, root = request["name"], Path(request["root"])
    try:
        prepare(name, root, Path(request["work"]), idx_dir, request["download"])
    except Exception as error:  # noqa: BLE001 - what a library raises becomes one line
        traceback.print_exc()
        if not isinstance(error, MnistTuneError):
            error = DataUnavailableError(f"{name} cannot be prepared in {root}: {_reason(error)}")
        json.dump({"error": type(error).__name__, "message": str(error)}, answer)
        answer.flush()
        os._exit(1)  # rather than wait for TFDS's download threads


if __name__ == "__main__":
    main()
