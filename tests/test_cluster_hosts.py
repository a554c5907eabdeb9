"""``python -m tests.cluster``, and that it would see what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from examples import drawn, finished_run, report
from ruamel.yaml import YAML

from mnist_tune import ledger
from tests.chaos_faults import LostError
from tests.cluster import hosts, play

REASON = hosts.missing()


@pytest.mark.slow
@pytest.mark.skipif(REASON is not None, reason=f"hosts as namespaces: {REASON}")
def test_a_search_loses_a_host_and_the_network_of_another() -> None:
    rows: list[play.Row] = []
    with hosts.running() as directory:
        play.play(directory, rows.append)
    assert rows[-1].what == "ray down, and no process of Ray on any host"


def test_no_hosts_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert hosts.missing() == "needs root"


def test_no_hosts_without_a_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name, path: None if name == "rsync" else name)
    assert hosts.missing() == "needs rsync: apt-get install rsync"


def test_the_file_has_what_is_edited() -> None:
    content = YAML(typ="safe").load(ROOT / "clusters" / "local.yaml")
    lines = len(content["setup_commands"])
    play.edit(content)
    assert content["provider"]["worker_ips"] == ["10.78.0.12", "10.78.0.13"]
    assert len(content["setup_commands"]) == lines - 2
    assert not any("uv" in line.split() or "sync" in line for line in content["setup_commands"])


def test_where_trials_are(tmp_path: Path) -> None:
    events = [
        drawn(0),
        drawn(1),
        {**report(0, 1), "node": "a", "time": 1.0},
        {**report(1, 1), "node": "b", "time": 2.0},
        {**report(1, 2), "node": "a", "time": 3.0},
        {**report(1, 3), "node": "a", "time": 4.0},
    ]
    ledger.append(tmp_path / "ledger.jsonl", events)
    assert play.placed(tmp_path) == {0: "a", 1: "a"}
    assert play.running_on(tmp_path, "a", 1) == {0}
    assert play.running_on(tmp_path, "a", 3) == {0, 1}
    assert play.moved_at(tmp_path, "b", {1}) == 3.0
    assert play.moved_at(tmp_path, "a", {0, 1}) is None
    assert play.moved_at(tmp_path, "b", {0, 1}) == 3.0


def test_a_table_that_is_not_whole_is_seen(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", max_epochs=3).path
    with pytest.raises(LostError, match=r"trials\.csv has"):
        play.check_table(run)
