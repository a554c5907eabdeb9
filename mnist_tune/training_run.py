"""One training run from start to end: the original program, or the replay of a winner."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnist_tune import devices
from mnist_tune.checkpoints import read_checkpoint, write_checkpoint
from mnist_tune.datasets import Dataset, load_dataset
from mnist_tune.errors import CheckpointError, ConfigError
from mnist_tune.hparams import Config, complete
from mnist_tune.places import Place, checked_uri, is_uri
from mnist_tune.yamls import load_yaml

CHECKPOINT = "model.safetensors"
MAX_THREADS = 4096
"""More are refused: XLA would start them all before it does anything."""


class Epoch(NamedTuple):
    """How the model does after an epoch; accuracy is a fraction in [0, 1]."""

    epoch: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class TrainResult:
    """What a training run gave.

    Attributes:
        config: the full configuration.
        epochs: after each epoch: on the test set, or on the validation set in a replay.
        test: on the test set after the last epoch.
        validation: on the validation set after the last epoch; None if it isn't a replay.
    """

    config: Config
    epochs: list[Epoch]
    test: dict[str, float]
    validation: dict[str, float] | None = None

    def record(self) -> dict[str, Any]:
        """What ``train --json`` prints."""
        record: dict[str, Any] = {
            "config": self.config,
            "epochs": [epoch._asdict() for epoch in self.epochs],
            "test": self.test,
        }
        return record if self.validation is None else {**record, "validation": self.validation}


@dataclass(frozen=True)
class Replay:
    """What best.yaml says about how its numbers came about.

    Attributes:
        config: the full configuration.
        epochs: how many to train.
        max_epochs: over which a learning rate schedule goes down.
        data: name, checksum and sizes of the data.
        device: platform, kind and threads.
        lanes: how many trials shared the device.
        versions: of Python and of the packages that matter.
        validation: accuracy and loss as they were.
    """

    config: Config
    epochs: int
    max_epochs: int
    data: dict[str, Any]
    device: dict[str, Any]
    lanes: int
    versions: dict[str, str]
    validation: dict[str, float]

    def matches(self, validation: Mapping[str, float]) -> bool:
        """Whether a run gave the recorded numbers, to the last digit."""
        return all(validation[name] == self.validation[name] for name in ("accuracy", "loss"))

    def differences(self, device: Mapping[str, Any], versions: Mapping[str, str]) -> list[str]:
        """What isn't as it was, of what decides how numbers are rounded."""
        then, now = {**self.device, **self.versions}, {**device, **versions}
        differences = [
            f"{name} was {value}, is {now.get(name)}"
            for name, value in then.items()
            if now.get(name) != value
        ]
        # On a CPU lanes are exact.
        if self.lanes > 1 and self.device["platform"] != "cpu":
            differences.append(f"it was trained in one of {self.lanes} lanes, is trained alone")
        return differences


def train(
    config: Mapping[str, Any] | None = None,
    *,
    dataset: str = "mnist",
    epochs: int = 10,
    data_dir: str | None = None,
    checkpoint_dir: str | Path | None = None,
    show: Callable[[Epoch], None] | None = None,
) -> TrainResult:
    """Trains on the whole training set, with an evaluation on the test set after each epoch.

    Args:
        config: hyperparameters that differ from their defaults.
        dataset: a name in ``datasets.DATASETS``.
        epochs: how many, ≥ 1.
        data_dir: where the data is; None: TFDS's place.
        checkpoint_dir: where to keep the model; None: nowhere.
        show: is called after each epoch.

    Raises:
        InputError: an argument or a hyperparameter is not valid.
        DataUnavailableError: the data is not here and can't be downloaded.
    """
    full = complete(config or {}, "hyperparameters")
    check_epochs(epochs)
    _check_keepable(checkpoint_dir)
    data = load_dataset(dataset, data_dir)
    devices.configure()
    done, state = _epochs(full, data, data.test, epochs, epochs, show)
    last = done[-1]
    if checkpoint_dir is not None:
        _keep(Path(checkpoint_dir), state, full, epochs, data, last)
    return TrainResult(full, done, {"accuracy": last.accuracy, "loss": last.loss})


def replay(
    path: str | Path,
    *,
    data_dir: str | None = None,
    checkpoint_dir: str | Path | None = None,
    show: Callable[[Epoch], None] | None = None,
) -> TrainResult:
    """Trains a search's winner again, as it was: same data, split, epochs, seed and threads.

    Args:
        path: a ``best.yaml``, or its URI.
        data_dir: where the data is; None: TFDS's place.
        checkpoint_dir: where to keep the model; None: nowhere.
        show: is called after each epoch, with the scores on the validation set.

    Raises:
        InputError: the file is not a best.yaml, or the data is not the same.
        DataUnavailableError: the data is not here and can't be downloaded.
    """
    from mnist_tune import training

    wanted = read_best(path)
    _check_keepable(checkpoint_dir)
    data = load_dataset(
        wanted.data["name"], data_dir, wanted.data["validation_size"], wanted.data["train_size"]
    )
    if data.checksum != wanted.data["checksum"]:
        raise ConfigError(
            f"{path}: was made with {data.name} of checksum {wanted.data['checksum']}; the data "
            f"here has {data.checksum}"
        )
    devices.configure(
        "cpu" if wanted.device["platform"] == "cpu" else None, wanted.device["threads"] or None
    )
    done, state = _epochs(
        wanted.config, data, data.validation, wanted.epochs, wanted.max_epochs, show
    )
    last = done[-1]
    if checkpoint_dir is not None:
        _keep(Path(checkpoint_dir), state, wanted.config, wanted.max_epochs, data, last)
    test = training.evaluate(state.params, training.device_data(data.test))
    return TrainResult(
        wanted.config,
        done,
        {"accuracy": float(test.accuracy), "loss": float(test.loss)},
        {"accuracy": last.accuracy, "loss": last.loss},
    )


def evaluate_checkpoint(
    path: Place, dataset: str | None = None, data_dir: str | None = None
) -> dict[str, Any]:
    """The loss and accuracy of a kept model on the test set.

    Args:
        path: a checkpoint.
        dataset: on which; None: the one that it was trained on.
        data_dir: where the data is; None: TFDS's place.

    Raises:
        CheckpointError: the file is not a checkpoint.
        InputError: the data is not known.
    """
    arrays, meta = read_checkpoint(path)
    try:
        name, device = str(meta["data"]["name"]), meta["device"]
        platform, threads = device["platform"], _check_threads(device["threads"])
        config, params = complete(meta["config"]), arrays["params"]
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of mnist-tune ({error!r})") from None
    data = load_dataset(dataset or name, data_dir)
    devices.configure("cpu" if platform == "cpu" else None, threads or None)
    from mnist_tune import training

    if not training.fits(params, config):
        raise CheckpointError(f"{path}: doesn't hold the parameters of its configuration")
    metrics = training.evaluate(params, training.device_data(data.test))
    return {
        "checkpoint": str(path),
        "dataset": data.name,
        "test": {"accuracy": float(metrics.accuracy), "loss": float(metrics.loss)},
    }


def read_best(path: str | Path) -> Replay:
    """Reads a best.yaml.

    Raises:
        InputError: it is missing, not YAML, or lacks something or has something invalid.
    """
    uri = isinstance(path, str) and is_uri(path)
    record = load_yaml(checked_uri(str(path)) if uri else Path(path))
    try:
        provenance, validation = record["provenance"], record["validation"]
        config = complete(record["config"], f"{path}: config")
        wanted = Replay(
            config=config,
            epochs=check_epochs(validation["epoch"], f"{path}: epoch"),
            max_epochs=check_epochs(provenance["max_epochs"], f"{path}: max_epochs"),
            data={
                "name": str(provenance["data"]["name"]),
                "checksum": str(provenance["data"]["checksum"]),
                "train_size": int(provenance["data"]["train_size"]),
                "validation_size": int(provenance["data"]["validation_size"]),
            },
            device={
                "platform": str(provenance["device"]["platform"]),
                "kind": str(provenance["device"]["kind"]),
                "threads": _check_threads(provenance["device"]["threads"]),
            },
            lanes=int(provenance.get("lanes", 1)),
            versions={str(k): str(v) for k, v in provenance.get("versions", {}).items()},
            validation={name: float(validation[name]) for name in ("accuracy", "loss")},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        detail = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{path}: not a best.yaml of mnist-tune: {detail}") from None
    return wanted


def check_epochs(epochs: Any, where: str = "epochs") -> int:
    """Returns a number of epochs if it is one.

    Raises:
        ConfigError: it isn't.
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ConfigError(f"{where} must be an integer ≥ 1; got {epochs!r}")
    return epochs


def _check_threads(threads: Any) -> int:
    if isinstance(threads, bool) or not isinstance(threads, int) or not 0 <= threads <= MAX_THREADS:
        raise ValueError(f"threads must be an integer ≥ 0 and ≤ {MAX_THREADS}; got {threads!r}")
    return threads


def _epochs(
    config: Config,
    data: Dataset,
    held_out: Any,
    epochs: int,
    max_epochs: int,
    show: Callable[[Epoch], None] | None,
) -> tuple[list[Epoch], Any]:
    from mnist_tune import training

    train_data = training.device_data(data.train)
    evaluation_data = training.device_data(held_out)
    hypers = training.hypers(config, max_epochs)
    state = training.initial_state(config)
    done = []
    for epoch in range(1, epochs + 1):
        state = training.train_epoch(
            state, train_data, hypers, np.int32(epoch), config["batch_size"]
        )
        metrics = training.evaluate(state.params, evaluation_data)
        done.append(Epoch(epoch, float(metrics.loss), float(metrics.accuracy)))
        if show:
            show(done[-1])
    return done, state


def _check_keepable(directory: str | Path | None) -> None:
    """Finds out before the training, and not after it, whether its model can be kept."""
    if directory is None:
        return
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ConfigError(f"--checkpoint-dir {directory}: {error.strerror}") from None


def _keep(
    directory: Path, state: Any, config: Config, max_epochs: int, data: Dataset, last: Epoch
) -> None:
    meta = {
        **last._asdict(),
        "config": config,
        "max_epochs": max_epochs,
        "data": {"name": data.name, "checksum": data.checksum},
        "device": devices.current().record(),
        "versions": devices.versions(),
    }
    write_checkpoint(
        directory / CHECKPOINT, {"params": state.params, "velocity": state.velocity}, meta
    )
