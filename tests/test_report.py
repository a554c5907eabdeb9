"""A search in text."""

from __future__ import annotations

from pathlib import Path

import pytest
from examples import finished_run, new_run, report

from mnist_tune.experiment import write_best
from mnist_tune.report import runs_text, show_text, summary_text


def test_a_summary_ends_with_the_best_and_how_to_train_it(tmp_path: Path) -> None:
    text = summary_text(finished_run(tmp_path / "run"))
    assert text.splitlines() == [
        "4 trials: 1 completed, 2 stopped early, 1 errored, 0 unfinished; 5 epochs in 12 s",
        f"run directory: {tmp_path / 'run'}",
        "",
        "best trial: 00000, epoch 2",
        "  learning_rate: 0.01",
        "  beta: 0.9",
        "  weight_decay: 0.0",
        "  schedule: constant",
        "  warmup_epochs: 0.0",
        "  batch_size: 128",
        "  features: [32, 64]",
        "  dense_units: 256",
        "  seed: 0",
        "validation accuracy: 90.00 %, loss 0.4000",
        "test accuracy: 87.50 %, loss 0.5000",
        "",
        f"train it again: mnist-tune train --config {tmp_path / 'run' / 'best.yaml'}",
    ]


def test_a_summary_says_what_lanes_cost(tmp_path: Path) -> None:
    experiment = finished_run(tmp_path / "run")
    experiment.results.lanes, experiment.results.epochs_wasted = 8, 3
    said = "8 lanes a slot; trained ahead and thrown away: 3 epochs"
    assert summary_text(experiment).splitlines()[2] == said


def test_a_summary_before_the_test_score(tmp_path: Path) -> None:
    experiment = finished_run(tmp_path / "run")
    write_best(experiment, {**(experiment.best_record() or {}), "test": None})
    assert "\ntest accuracy: not scored yet\n" in summary_text(experiment)


def test_a_summary_without_a_result(tmp_path: Path) -> None:
    assert summary_text(new_run(tmp_path / "run")).splitlines() == [
        "4 trials: 0 completed, 0 stopped early, 0 errored, 4 unfinished; 0 epochs in 0 s",
        f"run directory: {tmp_path / 'run'}",
        f"running or killed; go on with: mnist-tune resume {tmp_path / 'run'}",
        "no result yet",
    ]


@pytest.mark.parametrize(
    ("metric", "order"),
    [("accuracy", ["00003", "00000", "00001", "00002"]), ("loss", ["00001"])],
)
def test_trials_are_shown_best_first(metric: str, order: list[str], tmp_path: Path) -> None:
    experiment = new_run(tmp_path / "run", metric=metric)
    for event in (
        report(0, 1, 0.7, 0.4),
        report(1, 1, 0.6, 0.2),
        report(2, 1, 0.1, None, stop="not finite"),
        report(3, 1, 0.9, 0.3),
        report(3, 2, 0.8, 0.5, stop="all epochs"),
    ):
        experiment.record(event)
    table = show_text(experiment).split("\n\n")[-1].splitlines()
    assert table[0].split() == [
        *("trial", "status", "epochs", "validation", "%", "loss", "seconds", "config")
    ]
    rows = [line.split() for line in table[2:]]
    assert len(rows) == 4
    assert [row[0] for row in rows][: len(order)] == order
    assert ["00003", "completed", "2", "90.00", "0.3000", "1.0", "learning_rate=0.04"] in rows
    assert rows[-1] == ["00002", "stopped", "1", "-", "-", "0.5", "learning_rate=0.03"]


def test_a_trial_is_one_line_however_long_its_config(tmp_path: Path) -> None:
    experiment = new_run(tmp_path / "run", 1)
    experiment.results.trials[0].config.update(
        learning_rate=0.123, beta=0.1, weight_decay=1e-4, schedule="cosine", warmup_epochs=1.5,
        batch_size=64, features=[128, 256], dense_units=1024, seed=2**32 - 1,
    )  # fmt: skip
    assert (
        show_text(experiment)
        .splitlines()[-1]
        .endswith(
            "learning_rate=0.123 beta=0.1 weight_decay=0.0001 schedule=cosine warmup_epochs=1.5 "
            "batch_size=64 features=[128, 256] dense_units=1024 seed=4294967295"
        )
    )


def test_runs(tmp_path: Path) -> None:
    # A name is shown as it is, whatever it would mean to the library that draws the table.
    experiment = finished_run(tmp_path / ":smile:")
    write_best(experiment, {**(experiment.best_record() or {}), "test": None})
    runs = [experiment, finished_run(tmp_path / "[b]x"), new_run(tmp_path / "[i]")]
    lines = runs_text(runs, tmp_path).splitlines()
    assert lines[0].split() == ["run", "data", "state", "trials", "validation", "%", "test", "%"]
    assert [line.split() for line in lines[2:]] == [
        [":smile:", "digits", "done", "4/4", "90.00", "-"],
        ["[b]x", "digits", "done", "4/4", "90.00", "87.50"],
        ["[i]", "digits", "running", "or", "killed", "0/4", "-", "-"],
    ]


def test_no_runs(tmp_path: Path) -> None:
    assert runs_text([], tmp_path) == f"no runs in {tmp_path}"
