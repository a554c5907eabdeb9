"""Whole searches, with the real Ray, on the bundled digits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from examples import new_run
from paper import Paper
from processes import events, nothing_left, start, temporary_directory, wait_until

from mnist_tune import ledger
from mnist_tune.driver import lock
from mnist_tune.errors import ConfigError, RunError
from mnist_tune.experiment import open_experiment
from mnist_tune.searching import resume

pytestmark = pytest.mark.slow

PROMOTION = ("--asha-type", "promotion", "--reduction-factor", "2", "--num-samples", "8")
"""Added to ``base``: rungs at epochs 1 and 2 of 4."""

SPACE = """
parameters:
  learning_rate: {distribution: loguniform, low: 1.0e-3, high: 0.5}
  beta: {distribution: uniform, low: 0.0, high: 0.95}
"""


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


@pytest.fixture
def base(space: Path, tmp_path: Path, digits_data_dir: Path) -> list[str]:
    """The arguments of a small search on digits."""
    return [
        *("search", "--space", str(space), "--dataset", "digits"),
        *("--data-dir", str(digits_data_dir), "--storage-path", str(tmp_path), "--name", "run"),
        *("--max-epochs", "4", "--num-samples", "5"),
    ]


def curves(run: Path) -> dict[int, list[tuple[int, float, float, str]]]:
    """Trial → its reports, without times."""
    found: dict[int, list[tuple[int, float, float, str]]] = {}
    for e in events(run, "report"):
        found.setdefault(e["trial"], []).append(
            (e["epoch"], e["accuracy"], e["loss"], e["decision"])
        )
    return found


def history(run: Path) -> list[tuple[Any, ...]]:
    """Every report and promotion, in order, without times."""
    names = ("event", "trial", "epoch", "accuracy", "decision", "reason")
    recorded = ledger.read(run / "ledger.jsonl")
    return [
        tuple(map(event.get, names))
        for event in recorded
        if event["event"] in {"report", "promote"}
    ]


def promoted(run: Path) -> Paper:
    """The paper's rungs after a search of ``PROMOTION``, each of whose decisions is the paper's."""
    paper = Paper((1, 2), 4, 2)
    paper.check(ledger.read(run / "ledger.jsonl"))
    assert paper.get_job() is None
    return paper


def without_times(run: Path) -> list[list[str]]:
    """trials.csv without its column of seconds."""
    rows = [line.split(",") for line in (run / "trials.csv").read_text().splitlines()]
    column = rows[0].index("seconds")
    return [row[:column] + row[column + 1 :] for row in rows]


def finished(run: Path) -> dict[str, Any]:
    """The record of a search that has come to its end; checks what must then hold."""
    experiment = open_experiment(run)
    assert experiment.results.ended == "done"
    assert experiment.results.counts()["unfinished"] == 0
    for reports in curves(run).values():
        epochs = [epoch for epoch, *_ in reports]
        assert epochs == list(range(1, len(epochs) + 1)), "an epoch is missing or counted twice"
    assert not (run / "checkpoints").exists()
    best = experiment.best_record()
    assert best is not None
    assert best["test"] is not None
    assert best["validation"]["accuracy"] == max(
        accuracy for reports in curves(run).values() for _, accuracy, _, _ in reports
    )
    return best


@pytest.mark.parametrize(("asha", "reports"), [((), 3), (PROMOTION, 7)])
def test_interrupted_search_resumes_to_the_same_end(
    asha: tuple[str, ...], reports: int, base: list[str], tmp_path: Path, cli
) -> None:
    arguments = [*base, *asha, "--max-concurrent", "1"]
    run = tmp_path / "run"
    with temporary_directory() as temporary:
        driver = start(temporary, *arguments)
        wait_until(lambda: len(events(run, "report")) >= reports, 120, "reports")
        driver.send_signal(signal.SIGINT)
        stdout, stderr = driver.communicate(timeout=60)
        assert driver.returncode == 130
        assert stdout == ""
        assert f"mnist-tune resume {run}" in stderr
        assert "Traceback" not in stderr
        nothing_left(temporary)
    assert open_experiment(run).best_record() is not None

    resumed = cli("resume", run, "--json")
    assert resumed.returncode == 0, resumed.stderr
    best = finished(run)
    summary = json.loads(resumed.stdout)
    assert summary["best"]["test"] == best["test"]

    again = cli(*("whole" if word == "run" else word for word in arguments))
    assert again.returncode == 0, again.stderr
    assert curves(tmp_path / "whole") == curves(run)
    assert history(tmp_path / "whole") == history(run)
    assert without_times(tmp_path / "whole") == without_times(run)
    assert {**finished(tmp_path / "whole"), "provenance": None} == {**best, "provenance": None}

    assert json.loads(cli("resume", run, "--json").stdout)["best"] == summary["best"]


@pytest.mark.parametrize("concurrent", ["1", "2"])
def test_each_rung_promotes_the_papers_trials(
    concurrent: str, base: list[str], tmp_path: Path, digits_data_dir: Path, cli
) -> None:
    run = tmp_path / "run"
    done = cli(*base, *PROMOTION, "--max-concurrent", concurrent)
    assert done.returncode == 0, done.stderr
    best = finished(run)
    paper = promoted(run)
    assert [len(rung) for rung in paper.rungs] == [8, len(paper.promoted[0])]
    for left, rung in zip(paper.promoted, paper.rungs, strict=True):
        assert len(left) >= len(rung) // 2
    trials = open_experiment(run).results.trials
    assert [t.number for t in trials if t.status == "completed"] == sorted(paper.promoted[1])
    assert {t.status for t in trials} == {"completed", "stopped"}
    assert "paused" not in (run / "trials.csv").read_text()
    assert done.stderr.count(" paused after epoch 1: ") == 8
    if concurrent == "1":
        assert len({e["worker"] for e in events(run, "report")}) == 1
    nodes = {e["node"] for e in events(run, "report")}
    assert len(nodes) == 1
    assert "" not in nodes
    # A trial that paused has trained as one that never did.
    again = cli(
        *("train", "--config", run / "best.yaml", "--json", "--data-dir", digits_data_dir),
    )
    assert again.returncode == 0, again.stderr
    record = json.loads(again.stdout)
    assert record["validation"]["accuracy"] == best["validation"]["accuracy"]
    assert record["validation"]["loss"] == best["validation"]["loss"]


def test_promoted_trial_whose_process_is_killed_goes_on(base: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with temporary_directory() as temporary:
        driver = start(temporary, *base, *PROMOTION)

        def twice_promoted() -> list[dict[str, Any]]:
            return [report for report in events(run, "report") if report["epoch"] == 3]

        report = wait_until(twice_promoted, 120, "a report between the last rung and the end")[0]
        os.kill(int(report["worker"].rpartition(":")[2]), signal.SIGKILL)
        _, stderr = driver.communicate(timeout=200)
        assert driver.returncode == 0, stderr
        nothing_left(temporary)
    finished(run)
    promoted(run)
    assert events(run, "error") == []
    last = [e for e in events(run, "report") if (e["trial"], e["epoch"]) == (report["trial"], 4)]
    assert last[0]["worker"] != report["worker"]


@pytest.mark.parametrize(("asha", "reports"), [((), 2), (PROMOTION, 6)])
def test_search_whose_driver_is_killed_resumes(
    asha: tuple[str, ...], reports: int, base: list[str], tmp_path: Path, cli
) -> None:
    run = tmp_path / "run"
    with temporary_directory() as temporary:
        driver = start(temporary, *base, *asha)
        wait_until(lambda: len(events(run, "report")) >= reports, 120, "reports")
        driver.kill()
        driver.communicate(timeout=60)
        nothing_left(temporary)
    acted_on = events(run, "report")
    assert cli("resume", "run", "--storage-path", tmp_path).returncode == 0
    finished(run)
    if asha:
        promoted(run)
    assert events(run, "report")[: len(acted_on)] == acted_on


def test_trial_whose_process_is_killed_goes_on(base: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with temporary_directory() as temporary:
        driver = start(temporary, *base, "--scheduler", "fifo")
        report = wait_until(lambda: events(run, "report"), 120, "a report")[0]
        os.kill(int(report["worker"].rpartition(":")[2]), signal.SIGKILL)
        _, stderr = driver.communicate(timeout=200)
        assert driver.returncode == 0, stderr
        nothing_left(temporary)
    finished(run)
    assert events(run, "error") == []
    assert open_experiment(run).results.counts()["completed"] == 5


def test_nothing_of_a_trial_is_left_for_the_next(base: list[str], tmp_path: Path, cli) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(
        "parameters:\n  weight_decay: {distribution: grid, values: [0.0, 1000.0, 0.0]}\n"
        "  beta: 0.5\n"
    )
    arguments = [*base, "--max-concurrent", "1", "--num-samples", "1", "--scheduler", "fifo"]
    done = cli(*arguments, "--searcher", "grid")
    assert done.returncode == 0, done.stderr
    trials = open_experiment(tmp_path / "run").results.trials
    assert [t.status for t in trials] == ["completed", "stopped", "completed"]
    assert trials[1].reason == "not finite"
    assert [r[:3] for r in trials[0].reports] == [r[:3] for r in trials[2].reports]
    assert len({e["worker"] for e in events(tmp_path / "run", "report")}) == 1


def test_search_without_a_finite_result_fails(base: list[str], tmp_path: Path, cli) -> None:
    (tmp_path / "space.yaml").write_text("parameters:\n  weight_decay: 1000.0\n")
    done = cli(*base, "--num-samples", "2")
    assert done.returncode == 1
    assert "no trial gave a finite result" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_resume_joins_no_cluster_that_only_the_run_names(tmp_path: Path) -> None:
    new_run(tmp_path / "run", address="10.0.0.1:6379")
    with pytest.raises(ConfigError, match=r"at 10\.0\.0\.1:6379; say where to go on: --address"):
        resume(str(tmp_path / "run"))
    assert not events(tmp_path / "run", "session")


def test_a_run_without_best_yaml_and_model_says_what_is_left(
    base: list[str], tmp_path: Path, cli
) -> None:
    run = tmp_path / "run"
    assert cli(*base, "--num-samples", "1").returncode == 0
    best, content = finished(run), (run / "ledger.jsonl").read_text()
    killed = "".join(content.splitlines(keepends=True)[:-1])

    # As after a kill before the score: what has been removed is made again from what is left.
    (run / "ledger.jsonl").write_text(killed)
    (run / "best.yaml").unlink()
    assert cli("resume", run).returncode == 0
    assert finished(run) == best

    (run / "ledger.jsonl").write_text(killed)
    for name in ("best.yaml", "best.safetensors", "trials.csv"):
        (run / name).unlink()
    lost = cli("resume", run)
    assert lost.returncode == 1
    assert lost.stderr.splitlines()[-1].endswith("its configuration is in trials.csv")
    assert "Traceback" not in lost.stderr
    assert len((run / "trials.csv").read_text().splitlines()) == 2


def test_time_budget_ends_a_search_with_its_best(base: list[str], tmp_path: Path, cli) -> None:
    arguments = [*base, "--num-samples", "500", "--time-budget", "2", "--json"]
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["trials"]["unfinished"] > 0
    assert summary["best"]["test"]["accuracy"] > 0.1


def test_python_api(space: Path, tmp_path: Path, digits_data_dir: Path) -> None:
    import jax

    from mnist_tune import search

    jax.devices()  # as after train(): with its threads JAX warns of Ray's forks, an error here
    experiment = search(
        space,
        name="api",
        storage=str(tmp_path),
        dataset="digits",
        data_dir=str(digits_data_dir),
        num_samples=2,
        max_epochs=2,
    )
    assert experiment.summary()["trials"]["total"] == 2
    assert finished(tmp_path / "api")["config"] == experiment.summary()["best"]["config"]


def test_two_drivers_cannot_have_one_run(tmp_path: Path) -> None:
    (tmp_path / "search.yaml").touch()
    with (
        lock(tmp_path),
        pytest.raises(RunError, match="another process is running this search"),
    ):
        resume(str(tmp_path))


def test_resume_refuses_other_data(base: list[str], tmp_path: Path, cli) -> None:
    run = tmp_path / "run"
    with temporary_directory() as temporary:
        driver = start(temporary, *base)
        wait_until(lambda: events(run, "report"), 120, "a report")
        driver.kill()
        driver.communicate(timeout=60)
        nothing_left(temporary)
    record = (run / "search.yaml").read_text()
    checksum = open_experiment(run).data["checksum"]
    (run / "search.yaml").write_text(record.replace(checksum, "f" * 64))
    with pytest.raises(RunError, match="checksum ffff"):
        resume(str(run))


def test_mnist_search_reaches_95_percent(
    mnist_data_dir: Path, tmp_path: Path, cli, lr_beta: Path
) -> None:
    done = cli(
        *("search", "--space", lr_beta, "--num-samples", "4", "--max-epochs", "2"),
        *("--train-size", "10000", "--json", "--data-dir", mnist_data_dir),
        *("--storage-path", tmp_path, "--name", "run"),
        timeout_s=600,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["best"]["test"]["accuracy"] >= 0.95
    best = tmp_path / "run" / "best.yaml"
    replayed = cli("train", "--config", best, "--json", "--data-dir", mnist_data_dir)
    assert replayed.returncode == 0, replayed.stderr
    record = json.loads(replayed.stdout)
    expected = json.loads(done.stdout)["best"]
    assert record["validation"]["accuracy"] == expected["validation"]["accuracy"]
    assert record["validation"]["loss"] == expected["validation"]["loss"]
    assert record["test"] == expected["test"]


def test_a_ray_of_our_own_is_on_loopback_and_ends() -> None:
    code = (
        "from mnist_tune.cluster import ray_session\n"
        "with ray_session(None, False) as connect:\n"
        "    connect()\n"
        "    import ray\n"
        "    print(*(node['NodeManagerAddress'] for node in ray.nodes()))\n"
    )
    with temporary_directory() as temporary:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env={**os.environ, "TMPDIR": str(temporary)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "127.0.0.1"
        nothing_left(temporary)
        assert list(temporary.iterdir()) == []
