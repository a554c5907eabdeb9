"""Trials that wait for nodes: a cluster that starts with a head alone, with Ray's autoscaler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Cli
from processes import events, nothing_left, start, temporary_directory, wait_until
from ray_clusters import head, node
from test_preflight import another_jax

pytestmark = pytest.mark.slow


def test_a_search_waits_for_nodes_and_uses_those_that_join(
    cli: Cli, tmp_path: Path, lr_beta: Path, digits_data_dir: Path
) -> None:
    worker = {"CPU": 1, "object_store_memory": 100_000_000}
    with temporary_directory() as temporary:
        with head(temporary, cpus=0, autoscaling={"worker": worker}) as address:
            done = cli(
                *("search", "--address", address, "--space", lr_beta, "--name", "grown"),
                *("--dataset", "digits", "--data-dir", digits_data_dir, "--storage-path", tmp_path),
                *("--num-samples", "4", "--max-epochs", "10", "--scheduler", "fifo", "--json"),
            )
        nothing_left(temporary)
    assert done.returncode == 0, done.stderr
    waited, tried, *_ = done.stderr.splitlines()
    assert waited.startswith("no node has room for a trial (1 CPU cores, 0 GPUs): ")
    assert waited.endswith("waiting for one to join (Ctrl-C ends it)")
    assert tried.endswith("trying each")
    assert json.loads(done.stdout)["trials"]["completed"] == 4
    # Two nodes of one core each: two processes at the same time.
    times = [
        (e["time"] - e["epoch_s"], e["time"], e["worker"])
        for e in events(tmp_path / "grown", "report")
    ]
    assert any(
        a_worker != b_worker and a_begins < b_ends and b_begins < a_ends
        for a_begins, a_ends, a_worker in times
        for b_begins, b_ends, b_worker in times
    )


def test_a_node_that_joins_later_and_is_not_fit_ends_the_search(
    tmp_path: Path, lr_beta: Path, digits_data_dir: Path
) -> None:
    run = tmp_path / "late"
    with temporary_directory() as temporary:
        with head(temporary, cpus=0) as address, node(address, temporary, 1):
            search = start(
                temporary,
                *("search", "--address", address, "--space", lr_beta, "--name", "late"),
                *("--dataset", "digits", "--data-dir", digits_data_dir, "--storage-path", tmp_path),
                *("--num-samples", "4", "--max-epochs", "400", "--scheduler", "fifo"),
                *("--max-failures", "0"),
            )
            wait_until(lambda: events(run, "report"), 120, "a report")
            (tmp_path / "other").mkdir()
            other = another_jax(tmp_path / "other")
            with node(address, temporary, 1, PYTHONPATH=str(other)):
                _, said = search.communicate(timeout=120)
        nothing_left(temporary)
    assert search.returncode == 1
    assert "the search broke off: the cluster isn't fit for a search in" in said
    assert "jax 0.0.1 (here " in said
    assert f"go on with: mnist-tune resume {run}" in said
    # No trial is held to have failed for it.
    assert not events(run, "error")
