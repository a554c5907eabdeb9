"""A search for a person elsewhere: this process is no part of the cluster that runs it."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import Cli
from processes import events, nothing_left, start, temporary_directory, wait_until
from ray_clusters import free_port, head

from mnist_tune import afar
from mnist_tune.errors import ConfigError


@pytest.mark.parametrize("storage", [None, "/mnt/runs", "~/runs", "s3://bucket/runs"])
def test_storage_that_means_the_same_elsewhere(
    storage: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_TUNE_STORAGE", "/only/here")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert afar.far_storage(storage) == storage


def test_a_store_of_this_machines_environment_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_TUNE_STORAGE", "s3://bucket/runs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://host:9000")
    expected = "s3://bucket/runs?endpoint_override=http%3A%2F%2Fhost%3A9000"
    assert afar.far_storage(None) == expected
    assert afar.far_storage("/mnt/runs") == "/mnt/runs"


def test_a_relative_directory_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"begin with / or ~ .*; got 'runs'"):
        afar.far_storage("runs")


class Cluster(NamedTuple):
    address: str
    home: Path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head whose user has another home, and so neither our data nor our runs."""
    home = tmp_path_factory.mktemp("home")
    with temporary_directory() as temporary:
        port = free_port()
        with head(temporary, cpus=2, client_port=port, env={"HOME": str(home)}) as address:
            host = address.rpartition(":")[0]
            wait_until(lambda: _listens(host, port), 60, "its client server")
            yield Cluster(f"ray://{host}:{port}", home)
        nothing_left(temporary)


def _listens(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=5):
        return True
    return False


def command(cluster: Cluster, space: Path, data_dir: Path, name: str) -> list[str | Path]:
    return [
        *("search", "--address", cluster.address, "--space", space, "--name", name, "--json"),
        *("--dataset", "digits", "--data-dir", data_dir, "--num-samples", "4"),
    ]


@pytest.mark.slow
def test_a_search_runs_there_and_is_shown_here(
    cli: Cli, cluster: Cluster, lr_beta: Path, digits_data_dir: Path
) -> None:
    done = cli(*command(cluster, lr_beta, digits_data_dir, "far"), "--max-epochs", "2")
    assert done.returncode == 0, done.stderr
    run = cluster.home / "mnist-tune-runs" / "far"
    summary = json.loads(done.stdout)
    assert summary["path"] == str(run)
    assert summary["trials"]["unfinished"] == 0
    assert summary["best"]["test"] is not None
    lines = done.stderr.splitlines()
    assert lines[:2] == [
        "1 nodes have room for 2 trials at a time; trying each",
        f"run directory: {run}",
    ]
    assert [line[:5] for line in lines[2:]] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    there = cli("best", run, "--json")
    assert json.loads(there.stdout)["config"] == summary["best"]["config"]
    # Nothing to go on with, and it says the same.
    again = cli("resume", "far", "--address", cluster.address, "--json")
    assert json.loads(again.stdout) == summary


@pytest.mark.slow
def test_interrupted_here_it_ends_there_and_goes_on(
    cli: Cli, cluster: Cluster, lr_beta: Path, digits_data_dir: Path, tmp_path: Path
) -> None:
    run = cluster.home / "mnist-tune-runs" / "cut"
    asked = command(cluster, lr_beta, digits_data_dir, "cut")
    with temporary_directory() as temporary:
        search = start(temporary, *asked, "--max-epochs", "16", "--scheduler", "fifo")
        wait_until(lambda: len(events(run, "report")) > 3, 120, "reports")
        search.send_signal(signal.SIGINT)
        _, said = search.communicate(timeout=90)
        nothing_left(temporary)
    assert search.returncode == 130, said
    assert f"mnist-tune resume {run} --address {cluster.address}" in said
    wait_until(lambda: events(run, "end"), 30, "the driver's end")
    assert events(run, "end")[0]["reason"] == "interrupted"
    before = events(run, "report")
    done = cli("resume", run, "--address", cluster.address, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"]["completed"] == 4
    assert events(run, "report")[: len(before)] == before
    assert len(events(run, "report")) == 4 * 16


@pytest.mark.slow
def test_the_head_tries_its_nodes(cli: Cli, cluster: Cluster) -> None:
    done = cli("doctor", "--address", cluster.address, "--json")
    assert done.returncode == 0, done.stderr
    (node,) = json.loads(done.stdout)
    assert (node["cpus"], node["versions"], node["storage"]) == (2, "ok", "ok")
    # Where the runs are there, not here.
    assert (cluster.home / "mnist-tune-runs").is_dir()


@pytest.mark.slow
def test_errors_come_as_they_are(
    cli: Cli, cluster: Cluster, lr_beta: Path, digits_data_dir: Path
) -> None:
    asked = command(cluster, lr_beta, digits_data_dir, "wrong")
    done = cli(*asked, "--storage-path", "/proc/nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: /proc/nowhere: cannot be written (No such file or directory)" in done.stderr
    missing = cli("resume", "nothing", "--address", cluster.address)
    assert missing.returncode == 2
    assert "nothing: no run directory" in missing.stderr
    assert "Traceback" not in done.stderr + missing.stderr


@pytest.mark.slow
def test_nobody_listens(cli: Cli, lr_beta: Path, digits_data_dir: Path) -> None:
    nowhere = Cluster(f"ray://127.0.0.1:{free_port()}", Path(os.devnull))
    done = cli(*command(nowhere, lr_beta, digits_data_dir, "none"))
    assert done.returncode == 1
    assert "could not be reached" in done.stderr
