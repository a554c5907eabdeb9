"""A run directory that someone else made runs no code of theirs, whatever is done with it."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import SPACE, report

from mnist_tune.checkpoints import read_checkpoint
from mnist_tune.data_dir import read_arrays, write_arrays
from mnist_tune.datasets import load_dataset
from mnist_tune.errors import MnistTuneError
from mnist_tune.experiment import create_experiment, open_experiment
from mnist_tune.hparams import complete
from mnist_tune.options import SearchOptions
from mnist_tune.searching import data_record
from mnist_tune.space import load_space, space_from_mapping
from mnist_tune.training_run import read_best

COMMAND = str(Path(sys.executable).with_name("mnist-tune"))


class Malicious:
    """Touches a file when it's unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self._marker}",)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@pytest.fixture
def bad(marker: Path) -> bytes:
    return pickle.dumps(Malicious(marker))


def test_the_pickle_would_execute(bad: bytes, marker: Path) -> None:
    pickle.loads(bad)
    assert marker.exists()


def plant(run: Path, bad: bytes, marker: Path) -> None:
    """Where Ray keeps its pickles, and where ours would be if we had any."""
    ray = run / "ray"
    trial = ray / "TrainingTrial_0_00000"
    trial.mkdir(parents=True)
    state = {
        "trial_data": [[json.dumps({"_type": "CLOUDPICKLE_FALLBACK", "value": bad.hex()}), ""]]
    }
    (ray / "experiment_state-2026-01-01_00-00-00.json").write_text(json.dumps(state))
    for path in (
        *(ray / name for name in ("tuner.pkl", "trainable.pkl", "searcher-state.pkl")),
        *(ray / name for name in ("search_gen_state-1.json", "callback-states-1.pkl")),
        *(trial / name for name in ("params.pkl", "error.pkl", "checkpoint_000000.pkl")),
        run / "checkpoints" / "00001" / "last.safetensors",
        run / "checkpoints" / "00001" / "best-00001.safetensors",
        run / "best.safetensors",
        run / "state.pkl",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bad)
    # What Python would import if it looked for modules where it is started.
    for name in ("sitecustomize", "json", "pandas", "jax", "ray", "mnist_tune"):
        (run / f"{name}.py").write_text(f"import os; os.system('touch {marker}')\n")


@pytest.mark.slow
def test_resuming_a_run_full_of_pickles(
    tmp_path: Path, digits_data_dir: Path, bad: bytes, marker: Path
) -> None:
    run = tmp_path / "run"
    options = SearchOptions(
        dataset="digits", data_dir=str(digits_data_dir), num_samples=2, max_epochs=2, train_size=64
    )
    dataset = load_dataset("digits", str(digits_data_dir), 180, 64)
    configs = [complete({"learning_rate": 0.01}), complete({"learning_rate": 0.02})]
    space = space_from_mapping(SPACE)
    experiment = create_experiment(run, options, space, data_record(dataset), configs)
    experiment.record(report(1, 1, 0.5, 1.0))
    plant(run, bad, marker)
    for command in (["show", "."], ["resume", "."], ["show", "."], ["evaluate", "."]):
        subprocess.run([COMMAND, *command], cwd=run, check=False, timeout=120)
        assert not marker.exists()
    assert open_experiment(run).results.counts()["unfinished"] == 0


def test_checkpoints_hold_arrays_only(tmp_path: Path, bad: bytes, marker: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bad)
    with pytest.raises(MnistTuneError, match="not a checkpoint"):
        read_checkpoint(path)
    assert not marker.exists()


def test_arrays_are_not_unpickled(tmp_path: Path, marker: Path) -> None:
    directory = tmp_path / "arrays"
    write_arrays(directory, {"x": np.zeros(2)}, "made up")
    np.save(directory / "x.npy", np.array([Malicious(marker)], object), allow_pickle=True)
    manifest = next(directory.glob("*.json"))
    record = json.loads(manifest.read_text())
    record["sha256"]["x"] = hashlib.sha256((directory / "x.npy").read_bytes()).hexdigest()
    manifest.write_text(json.dumps(record))
    with pytest.raises(MnistTuneError):
        read_arrays(directory, {"x": ((2,), np.float64)})
    assert not marker.exists()


@pytest.mark.parametrize("tag", ["python/object/apply:os.system", "python/object/new:os.system"])
def test_yaml_builds_plain_values_only(tag: str, tmp_path: Path, marker: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(f"parameters: !!{tag} ['touch {marker}']\n")
    for read in (load_space, read_best):
        with pytest.raises(MnistTuneError):
            read(path)
    assert not marker.exists()
