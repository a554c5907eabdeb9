"""Searches whose trials share processes: the same results, whatever happens to those processes."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from processes import events, nothing_left, start, temporary_directory, wait_until
from ray_clusters import head, node

from mnist_tune import ledger, search
from mnist_tune.experiment import Experiment
from mnist_tune.yamls import load_yaml

pytestmark = pytest.mark.slow

SPACE = {
    "learning_rate": {"distribution": "loguniform", "low": 0.003, "high": 0.3},
    "beta": {"distribution": "uniform", "low": 0.0, "high": 0.9},
    "features": [4, 8],
    "dense_units": 16,
    "batch_size": 32,
}
OPTIONS: dict[str, Any] = {
    "dataset": "digits",
    "num_samples": 8,
    "max_epochs": 4,
    "scheduler": "fifo",
    "name": "run",
}


def run(data_dir: Path, storage: Path, **options: Any) -> Experiment:
    return search(SPACE, storage=str(storage), data_dir=str(data_dir), **{**OPTIONS, **options})


def numbers(experiment: Experiment) -> list[Any]:
    """All that trials have reported."""
    return [
        [(report.epoch, report.accuracy, report.loss) for report in trial.reports]
        for trial in experiment.results.trials
    ]


def decisions(experiment: Experiment) -> list[Any]:
    names = ("trial", "epoch", "accuracy", "loss", "decision", "reason")
    return [
        [event[name] for name in names]
        for event in ledger.read(experiment.path / "ledger.jsonl")
        if event["event"] == "report"
    ]


@pytest.fixture(scope="module")
def undisturbed(digits_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """A search with a process for each trial, to the last epoch of each."""
    return run(digits_data_dir, tmp_path_factory.mktemp("alone"), lanes=1)


TRIALS = "the trials"
"""Ray names their processes by what they are doing."""


def process_ids(name: str, ledger_path: Path) -> list[int]:
    """Processes that Ray has named so, or those of the trials."""
    if name == TRIALS:
        workers = {event["worker"] for event in events(ledger_path.parent, "report")}
        found = [int(worker.rpartition(":")[2]) for worker in workers]
        return [process_id for process_id in found if Path(f"/proc/{process_id}").exists()]
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if name in (directory / "cmdline").read_text() and _is_ours(int(directory.name)):
                found.append(int(directory.name))
        except OSError:
            continue
    return found


def _is_ours(process_id: int) -> bool:
    """Whether this process has started it, or what started it."""
    while process_id > 1:
        if process_id == os.getpid():
            return True
        status = Path(f"/proc/{process_id}/stat").read_text()
        process_id = int(status.rpartition(")")[2].split()[1])
    return False


def when_reports(path: Path, count: int, timeout_s: float = 120) -> None:
    """Waits until a ledger has so many reports."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if path.exists() and path.read_text().count('"report"') >= count:
            return
        time.sleep(0.02)
    raise TimeoutError(f"{path}: no {count} reports")


def test_a_search_in_lanes_gives_what_one_without_gives(
    digits_data_dir: Path, tmp_path: Path, undisturbed: Experiment
) -> None:
    in_lanes = run(digits_data_dir, tmp_path, lanes=3)
    assert numbers(in_lanes) == numbers(undisturbed)
    summary, before = in_lanes.summary(), undisturbed.summary()
    for name in ("best", "trials", "epochs_trained"):
        assert summary[name] == before[name]
    assert (summary["lanes"], before["lanes"]) == (3, 1)
    # One program for each engine that trained, whatever the configurations.
    assert summary["compilations"] in {1, 2}
    assert before["compilations"] is None
    assert summary["epochs_wasted"] == before["epochs_wasted"] == 0
    assert sorted(p.name for p in in_lanes.path.iterdir()) == sorted(
        p.name for p in undisturbed.path.iterdir()
    )
    best, best_before = (load_yaml(each.path / "best.yaml") for each in (in_lanes, undisturbed))
    assert best["provenance"].pop("lanes") == 3
    assert best_before["provenance"].pop("lanes") == 1
    assert best == best_before


def test_with_one_trial_at_a_time_lanes_make_no_difference_to_asha(
    digits_data_dir: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"scheduler": "asha", "max_concurrent": 1, "reduction_factor": 2}
    alone = run(digits_data_dir, tmp_path / "alone", lanes=1, **options)
    in_lanes = run(digits_data_dir, tmp_path / "lanes", lanes=4, **options)
    assert decisions(in_lanes) == decisions(alone)
    assert len({decision[4] for decision in decisions(alone)}) == 2
    # What was trained ahead of a stop was thrown away.
    assert in_lanes.results.epochs_wasted <= in_lanes.results.counts()["stopped_early"]


def test_promotion_in_lanes(digits_data_dir: Path, tmp_path: Path) -> None:
    done = run(
        *(digits_data_dir, tmp_path),
        lanes=4,
        scheduler="asha",
        asha_type="promotion",
        reduction_factor=2,
    )
    counts = done.results.counts()
    assert counts["completed"] >= 1
    assert counts["errored"] == counts["unfinished"] == 0
    for trial in done.results.trials:
        assert [report.epoch for report in trial.reports] == list(range(1, trial.epochs + 1))


@pytest.fixture
def killed() -> Iterator[Any]:
    """Kills processes of a name, each time a ledger has got to a number of reports."""
    threads = []
    victims: list[int] = []

    def kill_when(name: str, path: Path, counts: list[int]) -> list[int]:
        def work() -> None:
            for count in counts:
                when_reports(path, count)
                alive = process_ids(name, path)
                victims.extend(alive)
                for process_id in alive:
                    with suppress(ProcessLookupError):
                        os.kill(process_id, signal.SIGKILL)

        threads.append(threading.Thread(target=work, daemon=True))
        threads[-1].start()
        return victims

    yield kill_when
    for thread in threads:
        thread.join(timeout=10)


@pytest.mark.parametrize("name", ["ray::_RayEngine", TRIALS, "ray::Desk"])
def test_processes_that_die_lose_nothing(
    name: str, digits_data_dir: Path, tmp_path: Path, undisturbed: Experiment, killed: Any
) -> None:
    victims = killed(name, tmp_path / "run" / "ledger.jsonl", [3, 14])
    through = run(digits_data_dir, tmp_path, lanes=4)
    assert len(victims) >= 2, name
    assert through.results.counts()["errored"] == 0
    assert numbers(through) == numbers(undisturbed)
    assert through.summary()["best"] == undisturbed.summary()["best"]


def test_the_processes_of_trials_have_no_jax(
    digits_data_dir: Path, tmp_path: Path, undisturbed: Experiment
) -> None:
    loaded: dict[str, set[bool]] = {TRIALS: set(), "ray::_RayEngine": set()}

    def look() -> None:
        when_reports(tmp_path / "run" / "ledger.jsonl", 3)
        end = time.monotonic() + 30
        while not all(loaded.values()) and time.monotonic() < end:
            for name, seen in loaded.items():
                for process_id in process_ids(name, tmp_path / "run" / "ledger.jsonl"):
                    with suppress(OSError):
                        seen.add("jaxlib" in Path(f"/proc/{process_id}/maps").read_text())

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    run(digits_data_dir, tmp_path, lanes=4)
    looking.join(timeout=40)
    assert loaded == {TRIALS: {False}, "ray::_RayEngine": {True}}


POISON = """
import importlib.abc, importlib.util, os, signal, sys

class Poisoned(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "mnist_tune.programs":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run_module = spec.loader.exec_module
        def exec_module(module):
            run_module(module)
            run = module.Programs.run
            def deadly(self, config, turn):
                if any(abs(float(lane.hypers.beta) - 0.666) < 1e-6 for lane in turn):
                    os.kill(os.getpid(), signal.SIGKILL)
                return run(self, config, turn)
            module.Programs.run = deadly
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Poisoned())
"""


def test_only_the_trial_that_kills_the_process_fails(
    digits_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(POISON)
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    betas = {"distribution": "choice", "values": [0.1, 0.2, 0.3, 0.666]}
    space = {**SPACE, "learning_rate": 0.05, "beta": betas}
    done = search(
        space,
        storage=str(tmp_path),
        data_dir=str(digits_data_dir),
        **{**OPTIONS, "lanes": 4, "searcher": "grid", "num_samples": 1, "max_failures": 1},
    )
    errored = [trial for trial in done.results.trials if trial.status == "errored"]
    assert [trial.config["beta"] for trial in errored] == [0.666]
    assert "died while it trained this trial alone" in errored[0].reason
    others = [trial for trial in done.results.trials if trial not in errored]
    assert [trial.epochs for trial in others] == [OPTIONS["max_epochs"]] * 3


def test_a_driver_that_dies_loses_nothing(
    digits_data_dir: Path, tmp_path: Path, undisturbed: Experiment, cli: Cli, killed: Any
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text(json.dumps({"parameters": SPACE}))
    arguments = [
        *("search", "--space", space, "--dataset", "digits", "--data-dir", digits_data_dir),
        *("--num-samples", "8", "--max-epochs", "4", "--scheduler", "fifo", "--lanes", "4"),
        *("--storage-path", tmp_path, "--name", "run"),
    ]
    killed(str(space), tmp_path / "run" / "ledger.jsonl", [9])
    assert cli(*arguments).returncode == -signal.SIGKILL
    resumed = cli("resume", tmp_path / "run", "--json")
    assert resumed.returncode == 0, resumed.stderr
    summary = json.loads(resumed.stdout)
    assert summary["best"] == undisturbed.summary()["best"]
    assert summary["epochs_trained"] == 32
    assert summary["lanes"] == 4


def test_wrong_lanes_are_refused(cli: Cli, lr_beta: Path) -> None:
    for wrong in ("0", "65", "many", "-1", "2.5"):
        done = cli("search", "--space", lr_beta, "--lanes", wrong)
        assert done.returncode == 2
        assert "--lanes must be auto, or an integer ≥ 1 and ≤ 64; got " in done.stderr
        assert done.stdout == ""


def test_lanes_on_a_cluster_that_loses_a_node(
    lr_beta: Path, digits_data_dir: Path, tmp_path: Path, undisturbed: Experiment
) -> None:
    run = tmp_path / "run"
    (tmp_path / "space.yaml").write_text(json.dumps({"parameters": SPACE}))
    with temporary_directory() as temporary:
        with head(temporary, cpus=0) as address, node(address, temporary, 1), ExitStack() as lost:
            lost.enter_context(node(address, temporary, 1))
            driver = start(
                temporary,
                *("search", "--address", address, "--space", tmp_path / "space.yaml", "--json"),
                *("--dataset", "digits", "--data-dir", digits_data_dir, "--storage-path", tmp_path),
                *("--num-samples", "8", "--max-epochs", "4", "--scheduler", "fifo"),
                *("--lanes", "2", "--name", "run"),
            )
            with driver:
                wait_until(
                    lambda: len({event["node"] for event in events(run, "report")}) == 2,
                    *(120, "reports of two nodes"),
                )
                lost.close()
                printed, said = driver.communicate(timeout=180)
        nothing_left(temporary)
    assert driver.returncode == 0, said
    summary = json.loads(printed)
    assert summary["best"] == undisturbed.summary()["best"]
    assert summary["trials"]["completed"] == 8
    assert summary["lanes"] == 2
