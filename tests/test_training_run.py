"""A training run keeps and reports exactly what it did; a best.yaml repeats to the last digit."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from mnist_tune import devices, training
from mnist_tune.checkpoints import read_checkpoint, write_checkpoint
from mnist_tune.datasets import Split, load_dataset
from mnist_tune.errors import CheckpointError, ConfigError, InputError, RunError
from mnist_tune.hparams import complete
from mnist_tune.training_run import (
    CHECKPOINT,
    Epoch,
    TrainResult,
    evaluate_checkpoint,
    read_best,
    replay,
    train,
)
from mnist_tune.yamls import dump_yaml

SMALL = {"features": [2, 3], "dense_units": 8, "batch_size": 64, "seed": 5}
WINNER = {**SMALL, "learning_rate": 0.05, "schedule": "cosine", "warmup_epochs": 0.5}
EPOCHS, MAX_EPOCHS = 2, 4  # stopped early: the schedule goes on to the fourth epoch
TRAIN_SIZE, VALIDATION_SIZE = 600, 333


@pytest.fixture(scope="module", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A run sets environment variables for JAX: none of them is left for other tests."""
    with mock.patch.dict(os.environ, XDG_CACHE_HOME=str(tmp_path_factory.mktemp("cache"))):
        yield


def epochs_of(
    config: Mapping[str, Any], parts: tuple[Split, Split], epochs: int, max_epochs: int
) -> tuple[list[Epoch], training.State]:
    """A run as ``training.py`` does it: trained on one part, scored on the other."""
    full = complete(config)
    train_data, held_out = (training.device_data(part) for part in parts)
    hypers, state = training.hypers(full, max_epochs), training.initial_state(full)
    done = []
    for epoch in range(1, epochs + 1):
        state = training.train_epoch(state, train_data, hypers, np.int32(epoch), full["batch_size"])
        loss, accuracy = training.evaluate(state.params, held_out)
        done.append(Epoch(epoch, float(loss), float(accuracy)))
    return done, state


@pytest.fixture(scope="module")
def trained(
    digits_data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainResult, list[Epoch], Path]:
    """A run on the digits, what it showed, and its checkpoint."""
    shown: list[Epoch] = []
    directory = tmp_path_factory.mktemp("model") / "new"
    result = train(
        SMALL,
        dataset="digits",
        epochs=2,
        data_dir=str(digits_data_dir),
        checkpoint_dir=directory,
        show=shown.append,
    )
    return result, shown, directory / CHECKPOINT


@pytest.fixture(scope="module")
def winner(digits_data_dir: Path) -> dict[str, Any]:
    """What a search would record of a run on a part of the digits."""
    data = load_dataset("digits", digits_data_dir, VALIDATION_SIZE, TRAIN_SIZE)
    done, state = epochs_of(WINNER, (data.train, data.validation), EPOCHS, MAX_EPOCHS)
    test = training.evaluate(state.params, training.device_data(data.test))
    return {
        "config": complete(WINNER),
        "validation": done[-1]._asdict(),
        "test": {"accuracy": float(test.accuracy), "loss": float(test.loss)},
        "provenance": {
            "max_epochs": MAX_EPOCHS,
            "data": {
                "name": "digits",
                "checksum": data.checksum,
                "train_size": TRAIN_SIZE,
                "validation_size": VALIDATION_SIZE,
            },
            "device": devices.current().record(),
            "versions": devices.versions(),
        },
    }


def best_yaml(directory: Path, record: Mapping[str, Any]) -> Path:
    path = directory / "best.yaml"
    path.write_bytes(dump_yaml(record))
    return path


def changed(record: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    """A copy of a record with another value in a field like ``provenance.data.name``."""
    new = copy.deepcopy(record)
    *branches, leaf = field.split(".")
    node = new
    for branch in branches:
        node = node[branch]
    if value is None:
        del node[leaf]
    else:
        node[leaf] = value
    return new


def test_train_trains_on_all_and_scores_on_the_test_set(
    trained: tuple[TrainResult, list[Epoch], Path], digits_data_dir: Path
) -> None:
    result, _, _ = trained
    data = load_dataset("digits", digits_data_dir)
    expected, _ = epochs_of(SMALL, (data.train, data.test), 2, 2)
    assert result.epochs == expected
    assert result.test == {"accuracy": expected[-1].accuracy, "loss": expected[-1].loss}
    assert result.config == complete(SMALL)


def test_the_record_holds_config_epochs_and_test_at_full_precision(
    trained: tuple[TrainResult, list[Epoch], Path],
) -> None:
    result, _, _ = trained
    record = json.loads(json.dumps(result.record()))
    assert list(record) == ["config", "epochs", "test"]
    assert record["config"] == result.config
    assert [Epoch(**epoch) for epoch in record["epochs"]] == result.epochs
    assert record["test"] == result.test


def test_each_epoch_is_shown_when_it_is_done(
    trained: tuple[TrainResult, list[Epoch], Path],
) -> None:
    result, shown, _ = trained
    assert [epoch.epoch for epoch in shown] == [1, 2]
    assert shown == result.epochs


def test_a_failure_to_show_ends_the_run_there(digits_data_dir: Path, tmp_path: Path) -> None:
    def interrupted(_: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            SMALL,
            dataset="digits",
            data_dir=str(digits_data_dir),
            checkpoint_dir=tmp_path / "model",
            show=interrupted,
        )
    assert not list((tmp_path / "model").glob("*"))


def test_a_kept_model_scores_as_it_did(
    trained: tuple[TrainResult, list[Epoch], Path], digits_data_dir: Path
) -> None:
    result, _, checkpoint = trained
    outcome = evaluate_checkpoint(checkpoint, data_dir=str(digits_data_dir))
    assert outcome == {"checkpoint": str(checkpoint), "dataset": "digits", "test": result.test}


def test_a_kept_model_says_how_it_came_about(
    trained: tuple[TrainResult, list[Epoch], Path], digits_data_dir: Path
) -> None:
    result, _, checkpoint = trained
    arrays, meta = read_checkpoint(checkpoint)
    assert set(arrays) == {"params", "velocity"}
    assert Epoch(meta["epoch"], meta["loss"], meta["accuracy"]) == result.epochs[-1]
    assert meta["config"] == result.config
    assert meta["max_epochs"] == 2
    checksum = load_dataset("digits", digits_data_dir).checksum
    assert meta["data"] == {"name": "digits", "checksum": checksum}
    assert meta["device"] == devices.current().record()
    assert meta["versions"] == devices.versions()


@pytest.mark.parametrize("epochs", [0, -1, True, 1.5, "3", None])
def test_epochs_must_be_a_positive_integer(epochs: Any) -> None:
    with pytest.raises(ConfigError, match="epochs must be an integer ≥ 1; got"):
        train(epochs=epochs, data_dir="/nonexistent")


def test_hyperparameters_are_checked_before_anything_else() -> None:
    with pytest.raises(ConfigError, match=r"'bata'.*did you mean 'beta'"):
        train({"bata": 0.5}, data_dir="/nonexistent")


def test_a_place_where_no_model_can_be_kept_is_refused_before_training(
    digits_data_dir: Path, tmp_path: Path
) -> None:
    def never(_: Epoch) -> None:
        pytest.fail("an epoch was trained")

    (tmp_path / "model").touch()
    with pytest.raises(ConfigError, match=r"--checkpoint-dir .*model: File exists"):
        train(
            SMALL,
            dataset="digits",
            data_dir=str(digits_data_dir),
            checkpoint_dir=tmp_path / "model",
            show=never,
        )


def test_a_replay_repeats_every_number_exactly(
    winner: dict[str, Any], digits_data_dir: Path, tmp_path: Path
) -> None:
    path = best_yaml(tmp_path, winner)
    shown: list[Epoch] = []
    result = replay(
        path,
        data_dir=str(digits_data_dir),
        checkpoint_dir=tmp_path / "model",
        show=shown.append,
    )
    last = winner["validation"]
    assert result.validation == {"accuracy": last["accuracy"], "loss": last["loss"]}
    assert read_best(path).matches(result.validation)
    assert result.test == winner["test"]
    assert result.record()["validation"] == result.validation
    assert shown == result.epochs
    assert shown[-1]._asdict() == last
    kept = evaluate_checkpoint(tmp_path / "model" / CHECKPOINT, data_dir=str(digits_data_dir))
    assert kept["test"] == winner["test"]
    assert read_checkpoint(tmp_path / "model" / CHECKPOINT)[1]["max_epochs"] == MAX_EPOCHS


@pytest.mark.parametrize("name", ["accuracy", "loss"])
def test_numbers_that_differ_in_the_last_digit_do_not_match(
    winner: dict[str, Any], tmp_path: Path, name: str
) -> None:
    wanted = read_best(best_yaml(tmp_path, winner))
    validation = {key: winner["validation"][key] for key in ("accuracy", "loss")}
    assert wanted.matches(validation)
    validation[name] = float(np.nextafter(validation[name], 1))
    assert not wanted.matches(validation)


def test_what_is_not_as_it_was_is_named(winner: dict[str, Any], tmp_path: Path) -> None:
    wanted = read_best(best_yaml(tmp_path, winner))
    assert wanted.differences(devices.current().record(), devices.versions()) == []
    device = {**devices.current().record(), "threads": 99}
    versions = {**devices.versions(), "jax": "0.0"}
    threads, jax_version = winner["provenance"]["device"]["threads"], devices.versions()["jax"]
    assert wanted.differences(device, versions) == [
        f"threads was {threads}, is 99",
        f"jax was {jax_version}, is 0.0",
    ]


def test_lanes_are_named_where_they_change_the_rounding(
    winner: dict[str, Any], tmp_path: Path
) -> None:
    in_lanes = changed(winner, "provenance.lanes", 8)
    here, versions = devices.current().record(), devices.versions()
    assert read_best(best_yaml(tmp_path, in_lanes)).differences(here, versions) == []
    on_gpu = changed(in_lanes, "provenance.device", {**here, "platform": "gpu", "threads": 0})
    found = read_best(best_yaml(tmp_path, on_gpu)).differences(
        {**here, "platform": "gpu", "threads": 0}, versions
    )
    assert found == ["it was trained in one of 8 lanes, is trained alone"]


def test_data_with_another_checksum_is_refused(
    winner: dict[str, Any], digits_data_dir: Path, tmp_path: Path
) -> None:
    path = best_yaml(tmp_path, changed(winner, "provenance.data.checksum", "0" * 64))
    with pytest.raises(ConfigError, match=r"best\.yaml: was made with digits of checksum 0{64}; "):
        replay(path, data_dir=str(digits_data_dir))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("config", None, "not a best.yaml of mnist-tune: lacks 'config'"),
        ("validation", None, "lacks 'validation'"),
        ("validation.loss", None, "lacks 'loss'"),
        ("validation.epoch", None, "lacks 'epoch'"),
        ("provenance", None, "lacks 'provenance'"),
        ("provenance.max_epochs", None, "lacks 'max_epochs'"),
        ("provenance.data", None, "lacks 'data'"),
        ("provenance.data.checksum", None, "lacks 'checksum'"),
        ("provenance.device.threads", None, "lacks 'threads'"),
        ("config", "lr=0.1", "not a best.yaml"),
        ("config", 3, "not a best.yaml"),
        ("config", [["beta", 0.9]], "not a best.yaml"),
        ("validation", 0.98, "not a best.yaml"),
        ("provenance", [], "not a best.yaml"),
        ("provenance.data", "digits", "not a best.yaml"),
        ("provenance.device", [1], "not a best.yaml"),
        ("config.beta", 1.5, r"config: beta must be a number ≥ 0 and < 1; got 1\.5"),
        ("config.batch_size", 0, r"config: batch_size must be an integer ≥ 1 .*; got 0"),
        ("config.schedule", "step", "config: schedule must be one of .*; got 'step'"),
        ("config.learning_rat", 0.1, "unknown hyperparameter 'learning_rat'"),
        ("validation.epoch", 0, "epoch must be an integer ≥ 1; got 0"),
        ("validation.epoch", "two", "epoch must be an integer ≥ 1; got 'two'"),
        ("validation.accuracy", "high", "could not convert string to float: 'high'"),
        ("validation.loss", [0.1], "not a best.yaml"),
        ("provenance.max_epochs", -4, "max_epochs must be an integer ≥ 1; got -4"),
        ("provenance.data.train_size", "all", "invalid literal for int"),
        ("provenance.data.train_size", float("inf"), "cannot convert float infinity"),
        ("provenance.data.validation_size", float("nan"), "cannot convert float NaN"),
        ("provenance.device.threads", -1, "threads must be .* ≥ 0 and ≤ 4096; got -1"),
        ("provenance.device.threads", 1.5, r"threads must be an integer .*; got 1\.5"),
        ("provenance.device.threads", 10**9, "≥ 0 and ≤ 4096; got 1000000000"),
    ],
)
def test_a_damaged_best_yaml_is_refused(
    winner: dict[str, Any], tmp_path: Path, field: str, value: Any, message: str
) -> None:
    path = best_yaml(tmp_path, changed(winner, field, value))
    with pytest.raises(ConfigError, match=message) as caught:
        read_best(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold a mapping; got NoneType"),
        (b"- 1\n- 2\n", "must hold a mapping; got list"),
        (b"config: {beta: 0.9\n", "must be YAML"),
        (b"\x80\x04\x95", "must be UTF-8 text"),
        (b"config: !!python/object/apply:os.system [exit]", "must be plain data"),
        (b"a: 1\na: 2\n", "duplicate key 'a'"),
        (b"# " + b"x" * (1 << 20), "over 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "best.yaml"
    path.write_bytes(content)
    with pytest.raises(RunError, match=message) as caught:
        read_best(path)
    assert str(path) in str(caught.value)


def test_a_best_yaml_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No such file"):
        read_best(tmp_path / "best.yaml")
    with pytest.raises(RunError, match="Is a directory"):
        read_best(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("provenance.data.name", "digitz", "unknown data set 'digitz'"),
        ("provenance.data.validation_size", 1437, "validation-size must be"),
        ("provenance.data.train_size", 0, "train-size must be"),
    ],
)
def test_a_replay_on_data_that_cannot_be_is_refused(
    winner: dict[str, Any],
    digits_data_dir: Path,
    tmp_path: Path,
    field: str,
    value: Any,
    message: str,
) -> None:
    path = best_yaml(tmp_path, changed(winner, field, value))
    with pytest.raises(InputError, match=message):
        replay(path, data_dir=str(digits_data_dir))


@pytest.mark.parametrize("field", ["data", "data.name", "device", "device.threads", "config"])
def test_a_checkpoint_that_lacks_something_is_refused(
    trained: tuple[TrainResult, list[Epoch], Path], tmp_path: Path, field: str
) -> None:
    arrays, meta = read_checkpoint(trained[2])
    write_checkpoint(tmp_path / "model", arrays, changed(meta, field, None))
    with pytest.raises(CheckpointError, match="not a checkpoint of mnist-tune"):
        evaluate_checkpoint(tmp_path / "model")


def test_a_checkpoint_without_parameters_is_refused(
    trained: tuple[TrainResult, list[Epoch], Path], tmp_path: Path
) -> None:
    arrays, meta = read_checkpoint(trained[2])
    write_checkpoint(tmp_path / "model", {"velocity": arrays["velocity"]}, meta)
    with pytest.raises(
        CheckpointError, match=r"not a checkpoint of mnist-tune \(KeyError\('params"
    ):
        evaluate_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("field", ["params.conv2", "params.conv1.bias"])
def test_a_checkpoint_without_all_the_parameters_is_refused(
    trained: tuple[TrainResult, list[Epoch], Path],
    digits_data_dir: Path,
    tmp_path: Path,
    field: str,
) -> None:
    arrays, meta = read_checkpoint(trained[2])
    write_checkpoint(tmp_path / "model", changed(arrays, field, None), meta)
    with pytest.raises(CheckpointError, match="parameters of its configuration"):
        evaluate_checkpoint(tmp_path / "model", data_dir=str(digits_data_dir))


def test_a_checkpoint_of_another_shape_than_its_configuration_is_refused(
    trained: tuple[TrainResult, list[Epoch], Path], digits_data_dir: Path, tmp_path: Path
) -> None:
    arrays, meta = read_checkpoint(trained[2])
    write_checkpoint(tmp_path / "model", arrays, changed(meta, "config.dense_units", 9))
    with pytest.raises(CheckpointError, match="parameters of its configuration"):
        evaluate_checkpoint(tmp_path / "model", data_dir=str(digits_data_dir))


def test_a_checkpoint_can_be_moved(
    trained: tuple[TrainResult, list[Epoch], Path], digits_data_dir: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copy(trained[2], tmp_path / "elsewhere.safetensors"))
    outcome = evaluate_checkpoint(moved, "digits", str(digits_data_dir))
    assert outcome["test"] == trained[0].test


def test_a_checkpoint_on_an_unknown_data_set_is_refused(
    trained: tuple[TrainResult, list[Epoch], Path],
) -> None:
    with pytest.raises(ConfigError, match=r"unknown data set 'digit'.*'digits'"):
        evaluate_checkpoint(trained[2], "digit")
