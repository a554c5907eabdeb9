"""The best so far, recorded from checkpoints that trials left: no Ray, no training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from examples import DATA, META, end, error, keep_checkpoint, new_run, paused, promote, report

from mnist_tune.checkpoints import read_checkpoint, write_checkpoint
from mnist_tune.errors import RunError
from mnist_tune.experiment import Experiment, open_experiment, write_best
from mnist_tune.slots import Slots
from mnist_tune.winner import keep_checkpoints, trial_settings, update_best
from mnist_tune.yamls import load_yaml


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return new_run(tmp_path / "run", seed=7, max_epochs=5)


def best(experiment: Experiment) -> dict[str, Any]:
    record = experiment.best_record()
    assert record is not None
    return record


def test_nothing_is_recorded_before_there_is_a_finite_report(experiment: Experiment) -> None:
    before = sorted(experiment.path.iterdir())
    update_best(experiment)
    experiment.record(report(0, 1, 0.1, float("nan"), stop="not finite"))
    update_best(experiment)
    assert sorted(experiment.path.iterdir()) == before


def test_the_best_is_recorded_with_its_checkpoint(experiment: Experiment) -> None:
    content = keep_checkpoint(experiment, "00002", 3)
    experiment.record(report(0, 1, 0.5, 0.9), report(2, 3, 0.75, 0.5), report(2, 4, 0.7, 0.4))
    update_best(experiment)
    assert (experiment.path / "best.safetensors").read_bytes() == content
    assert load_yaml(experiment.path / "best.yaml") == {
        "config": experiment.results.trials[2].config,
        "validation": {"accuracy": 0.75, "loss": 0.5, "epoch": 3},
        "test": None,
        "provenance": {
            "run": "run",
            "trial_id": "00002",
            "metric": "accuracy",
            "seed": 7,
            "max_epochs": 5,
            "data": DATA,
            **META,
        },
    }
    assert open_experiment(experiment.path).summary()["best"]["trial_id"] == "00002"


def test_a_better_trial_or_epoch_takes_its_place(experiment: Experiment) -> None:
    for trial, epoch, accuracy in [(0, 1, 0.5), (1, 1, 0.6), (1, 2, 0.7), (0, 2, 0.8)]:
        content = keep_checkpoint(experiment, f"{trial:05d}", epoch)
        experiment.record(report(trial, epoch, accuracy))
        update_best(experiment)
        assert best(experiment)["validation"] == {
            "accuracy": accuracy,
            "loss": 1.0,
            "epoch": epoch,
        }
        assert best(experiment)["provenance"]["trial_id"] == f"{trial:05d}"
        assert (experiment.path / "best.safetensors").read_bytes() == content


def test_without_best_yaml_it_is_recorded_again_from_the_kept_model(
    experiment: Experiment,
) -> None:
    keep_checkpoint(experiment, "00000", 1)
    experiment.record(report(0, 1, 0.9, stop="all epochs"))
    update_best(experiment)
    keep_checkpoints(experiment)
    record = best(experiment)
    (experiment.path / "best.yaml").unlink()
    kept = experiment.path / "best.safetensors"
    arrays, meta = read_checkpoint(kept)
    meta = {**meta, "epoch": 1, "accuracy": 0.9, "loss": 1.0}
    write_checkpoint(kept, arrays, {**meta, "accuracy": 0.8})
    assert update_best(experiment) is None
    write_checkpoint(kept, arrays, meta)
    update_best(experiment)
    assert best(experiment) == record


def test_without_its_model_it_is_not_recorded(experiment: Experiment) -> None:
    content = keep_checkpoint(experiment, "00000", 1)
    experiment.record(report(0, 1, 0.9))
    update_best(experiment)
    (experiment.path / "best.safetensors").unlink()
    update_best(experiment)
    assert (experiment.path / "best.safetensors").read_bytes() == content


def test_what_is_recorded_already_is_not_written_again(experiment: Experiment) -> None:
    keep_checkpoint(experiment, "00000", 1)
    experiment.record(report(0, 1, 0.9))
    update_best(experiment)
    record = best(experiment)
    experiment.record(report(1, 1, 0.9), report(0, 2, 0.9), report(2, 1, 0.1))
    files = [experiment.path / "best.yaml", experiment.path / "best.safetensors"]
    before = [os.stat(file) for file in files]
    update_best(experiment)
    assert [os.stat(file) for file in files] == before
    assert best(experiment) == record


def test_a_test_score_stays_while_the_best_does(experiment: Experiment) -> None:
    keep_checkpoint(experiment, "00000", 1)
    experiment.record(report(0, 1, 0.9))
    update_best(experiment)
    write_best(experiment, {**best(experiment), "test": {"accuracy": 0.8, "loss": 0.5}})
    update_best(experiment)
    assert best(experiment)["test"] == {"accuracy": 0.8, "loss": 0.5}
    keep_checkpoint(experiment, "00001", 1)
    experiment.record(report(1, 1, 0.95))
    update_best(experiment)
    assert best(experiment)["test"] is None


def test_a_crash_between_the_two_files_is_made_good(experiment: Experiment) -> None:
    keep_checkpoint(experiment, "00000", 1)
    experiment.record(report(0, 1, 0.5))
    update_best(experiment)
    yaml = (experiment.path / "best.yaml").read_bytes()
    content = keep_checkpoint(experiment, "00001", 1)
    experiment.record(report(1, 1, 0.9))
    update_best(experiment)
    (experiment.path / "best.yaml").write_bytes(yaml)

    resumed = open_experiment(experiment.path)
    update_best(resumed)
    assert best(resumed)["provenance"]["trial_id"] == "00001"
    assert (experiment.path / "best.safetensors").read_bytes() == content


def test_checkpoints_of_finished_trials_are_removed(experiment: Experiment) -> None:
    keep_checkpoints(experiment)
    for trial in range(4):
        keep_checkpoint(experiment, f"{trial:05d}", 1)
    (experiment.checkpoints / "99999").mkdir()
    (experiment.checkpoints / "notes").mkdir()
    experiment.record(
        report(0, 1, stop="all epochs"), report(1, 1, stop="rung 1"), report(2, 1), error(3)
    )
    keep_checkpoints(experiment)
    left = sorted(path.name for path in experiment.checkpoints.iterdir())
    assert left == ["00002", "99999", "notes"]
    assert (experiment.checkpoints / "00002" / "best-00001.safetensors").exists()


def test_checkpoints_of_paused_trials_are_kept(experiment: Experiment) -> None:
    for trial in range(4):
        keep_checkpoint(experiment, f"{trial:05d}", 1)
    experiment.record(paused(0, 1), paused(1, 1), promote(1, 1), paused(2, 1), error(3))
    keep_checkpoints(experiment)
    left = sorted(path.name for path in experiment.checkpoints.iterdir())
    assert left == ["00000", "00001", "00002"]
    experiment.record(end("time_budget"))
    keep_checkpoints(experiment)
    assert len(list(experiment.checkpoints.iterdir())) == 3
    experiment.record(report(1, 2, stop="all epochs"), end("done"))
    keep_checkpoints(experiment)
    assert list(experiment.checkpoints.iterdir()) == []


def test_a_link_out_of_the_run_is_not_followed(experiment: Experiment, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    experiment.checkpoints.mkdir()
    (experiment.checkpoints / "00000").symlink_to(tmp_path / "mine")
    experiment.record(report(0, 1, stop="all epochs"))
    keep_checkpoints(experiment)
    assert (tmp_path / "mine" / "file").exists()


@pytest.mark.parametrize(
    ("places", "device", "threads"),
    [
        (Slots(1.0, 0.0, 2), "cpu", 1),
        (Slots(0.5, 0.0, 4), "cpu", 1),
        (Slots(2.5, 0.0, 1), "cpu", 2),
        (Slots(4.0, 0.5, 2), "gpu", 4),
        (Slots(1.0, 1.0, 16, 8), "gpu", 1),
    ],
)
def test_what_trials_share(
    places: Slots, device: str, threads: int, experiment: Experiment
) -> None:
    settings = trial_settings(experiment, places)
    assert (settings.device, settings.threads) == (device, threads)
    assert settings.lanes == places.lanes
    assert (settings.max_epochs, settings.metric, settings.data) == (5, "accuracy", DATA)
    assert settings.checkpoints == experiment.path / "checkpoints"


def test_a_damaged_checkpoint_is_not_recorded(tmp_path: Path) -> None:
    experiment = new_run(tmp_path / "run")
    experiment.record(report(0, 1, 0.9))
    content = keep_checkpoint(experiment, "00000", 1)
    path = experiment.checkpoints / "00000" / "best-00001.safetensors"
    path.write_bytes(content[:-1])
    assert update_best(experiment) is None
    assert not (experiment.path / "best.safetensors").exists()
    path.write_bytes(content)
    assert update_best(experiment) is experiment.results.best
    assert (experiment.path / "best.safetensors").read_bytes() == content


def test_what_is_recorded_is_not_read_again(tmp_path: Path) -> None:
    experiment = new_run(tmp_path / "run")
    experiment.record(report(0, 1, 0.9))
    keep_checkpoint(experiment, "00000", 1)
    recorded = update_best(experiment)
    (experiment.path / "best.yaml").write_text("not read")
    assert update_best(experiment, recorded) is recorded
    with pytest.raises(RunError):
        update_best(experiment)
