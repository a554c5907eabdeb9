"""Whole searches that are kept in a store: the real Ray, a real server, the bundled digits."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from object_store import free_port, objects
from processes import events, nothing_left, start, temporary_directory, wait_until

from mnist_tune import ledger
from mnist_tune.experiment import open_experiment
from mnist_tune.places import working_copy

pytestmark = pytest.mark.slow

SPACE = """
parameters:
  learning_rate: {distribution: loguniform, low: 1.0e-3, high: 0.5}
  beta: {distribution: uniform, low: 0.0, high: 0.95}
"""


@pytest.fixture
def base(tmp_path: Path, bucket: str, digits_data_dir: Path) -> list[str]:
    """The arguments of a small search on digits, into s3://BUCKET/runs/run."""
    (tmp_path / "space.yaml").write_text(SPACE)
    return [
        *("search", "--space", str(tmp_path / "space.yaml"), "--dataset", "digits"),
        *("--data-dir", str(digits_data_dir), "--name", "run"),
        *("--storage-path", f"s3://{bucket}/runs", "--max-epochs", "3", "--num-samples", "4"),
    ]


def numbers(where: Any) -> dict[tuple[int, int], tuple[float, float]]:
    """(Trial, epoch) → accuracy and loss, each once."""
    reports = [event for event in ledger.read(where) if event["event"] == "report"]
    found = {(e["trial"], e["epoch"]): (e["accuracy"], e["loss"]) for e in reports}
    assert len(found) == len(reports)
    return found


@pytest.mark.parametrize("hurt", [signal.SIGINT, signal.SIGKILL])
def test_a_search_goes_on_on_another_machine(
    hurt: signal.Signals,
    base: list[str],
    bucket: str,
    s3_address: str,
    tmp_path: Path,
    digits_data_dir: Path,
    cli,
) -> None:
    uri = f"s3://{bucket}/runs/run"
    copy = working_copy(uri)
    with temporary_directory() as temporary:
        driver = start(temporary, *base, "--max-concurrent", "1")
        wait_until(lambda: len(events(copy, "report")) >= 3, 120, "reports")
        driver.send_signal(hurt)
        _, stderr = driver.communicate(timeout=60)
        assert "Traceback" not in stderr
        if hurt == signal.SIGINT:
            assert driver.returncode == 130, stderr
            assert stderr.rstrip().endswith(f"mnist-tune resume {uri}")
        nothing_left(temporary)
    # No trial has touched the disk that it shares with the driver by chance.
    assert not list(copy.rglob("last.safetensors"))
    shutil.rmtree(copy)
    known = ledger.read(f"{uri}/ledger")
    # What had been acted on: the third could be on its way.
    assert len([event for event in known if event["event"] == "report"]) >= 2
    assert any("/checkpoints/" in key for key in objects(s3_address, bucket))

    resumed = cli("resume", uri, "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert ledger.read(f"{uri}/ledger")[: len(known)] == known
    kept = set(objects(s3_address, bucket))
    assert {key for key in kept if not key.startswith("runs/run/ledger/")} == {
        f"runs/run/{name}"
        for name in ("search.yaml", "trials.csv", "best.yaml", "best.safetensors")
    }
    summary = json.loads(resumed.stdout)
    assert summary["path"] == uri
    assert summary["trials"]["unfinished"] == summary["trials"]["errored"] == 0

    # As on a disk, to the last digit.
    local = [*base, "--max-concurrent", "1", "--storage-path", str(tmp_path)]
    assert cli(*local).returncode == 0
    assert numbers(f"{uri}/ledger") == numbers(tmp_path / "run" / "ledger.jsonl")
    expected = open_experiment(tmp_path / "run").summary()
    assert (summary["best"], summary["trials"]) == (expected["best"], expected["trials"])

    # Where nobody has worked on it.
    shutil.rmtree(copy)
    env = {"MNIST_TUNE_STORAGE": f"s3://{bucket}/runs"}
    shown = json.loads(cli("show", "run", "--json", env=env).stdout)
    assert shown["best"] == summary["best"]
    assert [row["epochs"] for row in shown["rows"]]
    listed = json.loads(cli("runs", "--json", env=env).stdout)
    assert [(run["path"], run["state"]) for run in listed] == [(uri, "done")]
    assert json.loads(cli("best", uri, "--json").stdout)["test"] == summary["best"]["test"]
    scored = cli("evaluate", uri, "--data-dir", digits_data_dir, "--json")
    assert json.loads(scored.stdout)["test"] == summary["best"]["test"]
    replayed = cli(
        *("train", "--config", f"{uri}/best.yaml", "--data-dir", digits_data_dir, "--json")
    )
    assert json.loads(replayed.stdout)["repeated"] is True
    again = json.loads(cli("resume", "run", "--json", env=env).stdout)
    assert again["best"] == summary["best"]
    taken = cli(*base)
    assert taken.returncode == 2
    assert f"{uri}: exists already" in taken.stderr


def test_a_trial_whose_process_dies_goes_on_from_the_store(base: list[str], bucket: str) -> None:
    uri = f"s3://{bucket}/runs/run"
    copy = working_copy(uri)
    with temporary_directory() as temporary:
        driver = start(temporary, *base, "--scheduler", "fifo", "--max-concurrent", "1")
        report = wait_until(lambda: events(copy, "report"), 120, "a report")[0]
        os.kill(int(report["worker"].rpartition(":")[2]), signal.SIGKILL)
        _, stderr = driver.communicate(timeout=200)
        assert driver.returncode == 0, stderr
        nothing_left(temporary)
    assert len(numbers(f"{uri}/ledger")) == 12
    assert open_experiment(uri).results.counts()["completed"] == 4


@pytest.mark.parametrize(
    ("storage", "code", "message"),
    [
        ("s3://nobodys-bucket/runs", 1, "there is no such bucket; make it first"),
        ("os://bucket/runs", 2, "must be s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"),
        ("s3://key:secret@bucket/runs", 2, "credentials can't be part of a storage URI"),
        ("s3://bucket/runs?endpoint_override=127.0.0.1:PORT&scheme=http", 1, "no connection (Coul"),
    ],
)
@pytest.mark.parametrize("command", ["search", "resume", "runs"])
def test_what_cannot_be(
    command: str, storage: str, code: int, message: str, base: list[str], cli
) -> None:
    storage = storage.replace("PORT", str(free_port()))
    arguments = {"search": base, "resume": ["resume", "run"], "runs": ["runs"]}[command]
    done = cli(*arguments, "--storage-path", storage, timeout_s=30)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2
