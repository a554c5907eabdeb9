"""The arithmetic of the benchmarks, and that a small one runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import driver, scaling, searches
from benchmarks.processes import ContestantError, Finished, run
from benchmarks.report import Table, insert, markdown, save, seconds
from benchmarks.rounds import interleave, median, ratio
from benchmarks.settings import Settings
from benchmarks.turnover import turnovers
from benchmarks.usage import AGENTS, GCS, IDLE, OTHERS, RAYLETS, TRIALS, kinds_of, usage


def test_the_median_of_an_even_number_is_between_the_two_in_the_middle() -> None:
    assert median([4.0, 1.0, 3.0]) == 3.0
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5


def test_a_ratio_above_one_means_that_ours_is_faster() -> None:
    assert ratio(theirs=[6.0, 100.0, 5.0], ours=[2.0, 0.1, 3.0]) == 3.0


def test_every_contestant_has_a_turn_each_round_and_none_is_always_first() -> None:
    turns: list[str] = []

    def turn(name: str) -> int:
        turns.append(name)
        return len(turns)

    results = interleave({name: lambda name=name: turn(name) for name in "abc"}, 3)
    assert turns == [*"abc", *"bca", *"cab"]
    assert results == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def report(worker: str, time: float, decision: str, epoch_s: float = 1.0) -> dict[str, Any]:
    return {
        "event": "report",
        "worker": worker,
        "time": time,
        "decision": decision,
        "epoch_s": epoch_s,
    }


def test_a_turnover_is_from_a_trials_last_report_to_the_same_workers_next_first_step() -> None:
    events = [
        {"event": "session", "slots": 2},
        report("a", 10.0, "continue"),
        report("b", 10.5, "stop"),
        report("a", 11.0, "stop"),
        report("a", 12.1, "continue"),
        report("b", 12.5, "stop", epoch_s=1.75),
        report("a", 13.2, "stop"),
    ]
    assert turnovers(events) == pytest.approx([0.1, 0.25])


def test_a_benchmarks_table_replaces_the_one_before_and_nothing_else() -> None:
    text = "# A\n<!-- begin one -->\nold\n<!-- end one -->\n<!-- begin two -->\n<!-- end two -->\nZ"
    shown = markdown(Table(("", "s"), [["x", "1"]]), "here")
    replaced = insert(text, "one", shown)
    assert "old" not in replaced
    assert "| x | 1 |" in replaced
    assert insert(replaced, "one", "old") == text
    with pytest.raises(ValueError, match="begin three"):
        insert(text, "three", shown)


def test_the_readme_has_a_place_for_every_benchmark() -> None:
    from benchmarks.__main__ import BENCHMARKS
    from benchmarks.report import README

    for name in BENCHMARKS:
        insert(README.read_text(), name, "")


def test_a_days_file_keeps_the_other_benchmarks(tmp_path: Path) -> None:
    save({"kernel": {"result": 1}, "start": {"result": 2}}, tmp_path, "2030-01-31")
    path = save({"kernel": {"result": 3}}, tmp_path, "2030-01-31")
    assert json.loads(path.read_text()) == {"kernel": {"result": 3}, "start": {"result": 2}}


@pytest.mark.parametrize(("value", "shown"), [(0.04567, "0.0457"), (12.34, "12.3"), (123.4, "123")])
def test_times_have_three_digits(value: float, shown: str) -> None:
    assert seconds(value) == shown


def test_a_contestants_answer_is_its_last_line(tmp_path: Path) -> None:
    assert Finished(0.0, 1.0, 'noise\n{"epochs": 3}\n\n').answer() == {"epochs": 3}
    finished = run(["sh", "-c", "echo '{\"directory\": \"'$TMPDIR'\"}'"], tmp_path)
    assert finished.answer() == {"directory": str(tmp_path)}
    with pytest.raises(ContestantError, match="status 3\nwhy"):
        run(["sh", "-c", "echo why >&2; exit 3"], tmp_path)


def test_search_tables_compare_with_ours() -> None:
    def runs(*walls_s: float) -> list[dict[str, float]]:
        scores = {"validation_accuracy": 0.9, "test_accuracy": 0.8}
        return [{"wall_s": s, "trials": 4, "epochs": 10, **scores} for s in walls_s]

    table = searches.table({"contestants": {searches.OURS: runs(2, 3, 2), "other": runs(9, 8, 1)}})
    assert table.rows[0][:3] == [searches.OURS, "2", "1.00"]
    assert table.rows[1] == ["other", "8", "4.00", "4", "10", "90.00 %", "80.00 %"]


def test_processes_of_another_cluster_are_not_counted() -> None:
    processes = {
        1: (0, "/x/ray/gcs/gcs_server --log_dir=/tmp/a/logs"),
        2: (0, "/x/ray/raylet/raylet --session_dir=/tmp/a/session"),
        3: (0, "/x/ray/raylet/raylet --session_dir=/tmp/b/session"),
        4: (2, "ray::PacedTrial.train "),
        5: (2, "ray::IDLE "),
        6: (2, "ray::DashboardAgent "),
        7: (3, "ray::PacedTrial.train "),
        8: (0, "python log_monitor.py --session-dir=/tmp/a/session"),
    }
    kinds = {1: GCS, 2: RAYLETS, 4: TRIALS, 5: IDLE, 6: AGENTS, 8: OTHERS}
    assert kinds_of(processes, Path("/tmp/a")) == kinds


def test_what_a_process_uses_is_measured(tmp_path: Path) -> None:
    busy = f"import time; '{tmp_path}'\nwhile time.process_time() < 60: pass"
    with subprocess.Popen([sys.executable, "-c", busy]) as process:
        time.sleep(1)
        used = usage(tmp_path, memory=True)[OTHERS]
        process.kill()
    assert used.processes == 1
    assert 0.1 < used.cpu_s < 2
    assert 1 << 20 < used.pss_bytes < 100 << 20


def test_the_scaling_tables_figures_are_per_second_per_report_and_per_process() -> None:
    cores = {"driver": 0.5, GCS: 0.25, RAYLETS: 0.125, TRIALS: 1.0}
    paced = {"wall_s": 10.0, "reports": 1000, "wait_s": {"50": 0.01, "99": 0.2}, "cores": cores}
    sizes = {TRIALS: (6, 600), GCS: (1, 50), RAYLETS: (4, 100), AGENTS: (8, 800), OTHERS: (9, 50)}
    point = {
        "concurrent": 6,
        "start_s": 40.4,
        "driver_bytes": {"full": 200 << 20},
        "processes": {
            kind: {"count": count, "pss_bytes": mib << 20} for kind, (count, mib) in sizes.items()
        },
        "steady": paced,
        "saturated": paced,
    }
    steady, saturated = scaling.table({"points": [point]}).rows
    assert steady == [
        *("6", "5", "100.0", "0.01", "0.2", "0.50", "5.0"),
        *("0.38", "1.00", "200", "100", "1000", "40"),
    ]
    assert saturated == ["6", "0", *steady[2:]]


@pytest.mark.slow
def test_trials_at_a_pace_run_on_a_cluster(digits_data_dir: Path) -> None:
    result = scaling.measure(Settings(str(digits_data_dir), quick=True, rounds=1))
    (point,) = result["points"]
    assert point["nodes"] == scaling.NODES
    assert point["processes"][TRIALS]["count"] == point["concurrent"] == 3
    assert point["saturated"]["reports"] > point["steady"]["reports"] > 0
    assert point["saturated"]["cores"]["driver"] > point["steady"]["cores"]["driver"]


@pytest.mark.slow
def test_simulated_trials_run_through_both_drivers(digits_data_dir: Path) -> None:
    result = driver.measure(Settings(str(digits_data_dir), quick=True, rounds=1), trials=12)
    for (measured,) in result["contestants"].values():
        assert measured["trials"] == 12
        assert 12 <= measured["reports"] <= 48
    assert len(driver.table(result).rows) == 2
