"""The script that checks a GPU: it refuses to run without one, and its rehearsal runs through."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from benchmarks import gpu_searches

SCRIPT = ROOT / "benchmarks" / "gpu_check.sh"


def check(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_without_a_gpu_it_fails_at_once_and_says_so_in_its_log(tmp_path: Path) -> None:
    refused = check(tmp_path, tmp_path / "results")
    assert refused.returncode == 1
    assert "JAX sees no GPU" in refused.stdout
    assert "==" not in refused.stdout
    (log,) = (tmp_path / "results").iterdir()
    assert log.name.endswith("-gpu.log")
    assert log.read_text() == refused.stdout


@pytest.mark.parametrize("arguments", [["--what"], ["--parts", "lanes everything"], [*"abc"]])
def test_wrong_usage_starts_nothing(arguments: list[str]) -> None:
    wrong = check(*arguments)
    assert wrong.returncode == 2
    assert "[--rehearse]" in wrong.stderr


def test_a_part_that_fails_is_named_and_the_others_run(tmp_path: Path) -> None:
    # A file can't be a data directory.
    (tmp_path / "data").touch()
    parts = ["--rehearse", "--parts", "lanes lanes-search"]
    failed = check(*parts, tmp_path / "data", tmp_path / "results")
    assert failed.returncode == 1
    assert "== lanes-search" in failed.stdout
    assert failed.stdout.rstrip().endswith("== failed: lanes lanes-search")


def test_a_worse_winner_another_replay_and_lost_trials_are_problems() -> None:
    def result(with_lanes: float, alone: float, replayed: float, errored: int) -> dict[str, Any]:
        trials = {"errored": errored, "unfinished": 0}
        searches = {
            name: {"best": {"validation": {"accuracy": accuracy}}, "trials": trials}
            for name, accuracy in (("auto", with_lanes), ("1", alone))
        }
        replay = {"validation": {"accuracy": replayed}}
        return {"sizes": gpu_searches.REAL._asdict(), "searches": searches, "replay": replay}

    assert gpu_searches.problems(result(0.991, 0.990, 0.9912, 0)) == []
    assert len(gpu_searches.problems(result(0.980, 0.990, 0.980, 0))) == 1
    assert len(gpu_searches.problems(result(0.991, 0.990, 0.980, 0))) == 1
    assert len(gpu_searches.problems(result(0.991, 0.990, 0.991, 1))) == 2


@pytest.mark.slow
def test_the_rehearsal_runs_through_without_a_gpu(digits_data_dir: Path, tmp_path: Path) -> None:
    rehearsed = check("--rehearse", digits_data_dir, tmp_path)
    assert rehearsed.returncode == 0, rehearsed.stdout
    assert rehearsed.stdout.rstrip().endswith("== failed: none")
    log, results = sorted(tmp_path.iterdir(), key=lambda path: path.suffix, reverse=True)
    assert log.read_text() == rehearsed.stdout
    record = json.loads(results.read_text())["searches-check"]["result"]
    assert record["problems"] == []
    assert record["replay"]["repeated"]
