"""The arithmetic of the benchmarks, and that a small one runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from benchmarks import driver, lanes, lanes_search, scaling, searches
from benchmarks.lanes import Case
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
        if BENCHMARKS[name].on_gpu:
            insert(README.read_text(), f"{name}-gpu", "")


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


def lane_round(
    epoch_s: float, lanes: int, count: int = 1, compile_s: float = 3.0
) -> dict[str, Any]:
    process = {
        "train_size": 6000,
        "validation_size": 1800,
        "begun": 100.0,
        "ended": 100.0 + 4 * epoch_s,
        "epoch_s": [epoch_s] * 4,
        "compile_s": compile_s,
        "bytes_a_lane": (10 << 20) / epoch_s,
        "peak_flop_per_s": 1e12 if count == 1 else None,
    }
    return {"processes": [process] * count}


def lane_case(form: str, lanes: int, epochs_s: list[float], count: int = 1) -> dict[str, Any]:
    # From the second round on programs come from the cache.
    rounds = [lane_round(s, lanes, count, 3.0 if i == 0 else 0.1) for i, s in enumerate(epochs_s)]
    return {"form": form, "lanes": lanes, "processes": count, "rounds": rounds}


@pytest.mark.parametrize(("device", "of_two"), [("a CPU core", "2"), ("NVIDIA X", "4")])
def test_the_lanes_tables_figures_are_a_devices_and_a_lanes(device: str, of_two: str) -> None:
    cases = [
        lane_case("alone", 1, [0.5, 0.25, 0.5]),
        lane_case("abreast", 8, [1.0, 2.0, 1.0]),
        lane_case("alone", 1, [0.5], count=2),
    ]
    stopped = [{"form": "abreast", "lanes": 16, "processes": 1, "why": "out of memory"}]
    table = lanes.table({"device": device, "cases": cases, "stopped": stopped})
    assert table.columns[3].endswith("a core" if "core" in device else "the GPU")
    # 6,000 images of training and a tenth of that work for 1,800 of evaluation: 0.1815 TFLOP.
    assert table.rows == [
        ["alone", "1", "1", "2", "1.00", "20", "36.3 %", "3"],
        ["abreast", "8", "1", "8", "4.00", "5", "145.2 %", "3"],
        ["alone", "1", "2", of_two, f"{int(of_two) / 2:.2f}", "20", ANY, ""],
        ["abreast", "16", "1", "not measured: out of memory", "", "", "", ""],
    ]


def test_lanes_are_added_until_an_epoch_takes_too_long_or_memory_is_short() -> None:
    tried = []

    def measure(case: Case) -> dict[str, Any]:
        tried.append(case)
        if case == Case("abreast", 4):
            raise ContestantError("XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory")
        return lane_round(20.0 * case.lanes, case.lanes)

    done, stopped = lanes.climb(["in turn", "abreast"], [1, 2, 4, 8, 16], measure)
    assert tried == [
        Case("alone", 1),
        *(Case("in turn", n) for n in (1, 2, 4)),
        *(Case("abreast", n) for n in (1, 2, 4)),
    ]
    assert list(done) == tried[:-1]
    assert [(each["form"], each["lanes"], each["why"]) for each in stopped] == [
        ("in turn", 8, "an epoch of 4 takes 80 s"),
        ("abreast", 4, "out of memory"),
    ]


def test_what_fails_for_another_reason_than_memory_is_not_taken_for_it() -> None:
    def measure(case: Case) -> dict[str, Any]:
        raise ContestantError("python: status 1\nTypeError")

    with pytest.raises(ContestantError, match="TypeError"):
        lanes.climb(["abreast"], [1, 2], measure)
    assert lanes.out_of_memory("python: status -9\n")


def test_lanes_are_abreast_only_on_a_gpu_where_processes_share_it() -> None:
    cpu, gpu = Settings("", False, 3), Settings("", False, 3, "NVIDIA X")
    done = [Case(form, n) for form in lanes.forms(cpu) for n in (1, 2, 4, 8, 16)]
    assert lanes.sizes(cpu) == [1, 2, 4, 8, 16, 32, 64]
    assert list(lanes.beside(cpu, dict.fromkeys(done))) == [
        *(Case("alone", 1, 2), Case("in turn", 8, 2), Case("abreast", 8, 2))
    ]
    assert lanes.forms(gpu) == ("abreast",)
    assert list(lanes.beside(gpu, {})) == [Case("alone", 1, n) for n in (2, 4, 8)]


def test_the_table_of_searches_in_lanes_compares_with_those_without() -> None:
    def runs(walls_s: list[float], compilations: int | None) -> list[dict[str, Any]]:
        same = {"lanes": 8, "epochs": 70, "epochs_wasted": 5, "validation_accuracy": 0.9}
        return [{"wall_s": s, "compilations": compilations, **same} for s in walls_s]

    table = lanes_search.table(
        {"searches": {"1": runs([20, 30, 18], None), "auto": runs([10, 9, 40], 2)}}
    )
    assert table.rows == [
        ["--lanes 1", "20", "1.00", "70", "5", "not counted", "90.00 %"],
        ["--lanes auto (8)", "10", "2.00", "70", "5", "2", "90.00 %"],
    ]


@pytest.mark.parametrize(("gpu", "suffix"), [(None, ""), ("NVIDIA X", "-gpu")])
def test_a_gpus_results_are_kept_apart_and_it_has_all_cores(
    gpu: str | None, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import __main__ as command

    seen: list[tuple[str | None, int]] = []

    def measure(settings: Settings) -> dict[str, Any]:
        seen.append((settings.gpu, len(cores)))
        return {}

    cores: list[int] = []
    benchmark = command.Benchmark(measure, lambda result: Table(("x",), [["1"]]), [], on_gpu=True)
    monkeypatch.setattr(command, "BENCHMARKS", {"lanes": benchmark})
    monkeypatch.setattr(command, "gpu", lambda: gpu)
    monkeypatch.setattr(command, "take_cores", cores.extend)
    monkeypatch.setattr(command.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    readme = tmp_path / "README.md"
    readme.write_text(
        "".join(f"<!-- begin {name} -->\n<!-- end {name} -->\n" for name in ("lanes", "lanes-gpu"))
    )
    monkeypatch.setattr(command, "README", readme)
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    assert command.main.callback is not None
    command.main.callback((), str(tmp_path), None, False, tmp_path / "elsewhere")
    assert "| 1 |" not in readme.read_text()
    command.main.callback((), str(tmp_path), None, False, None)
    assert seen[0] == (gpu, 4 if gpu else 2)
    for directory in ("elsewhere", "results"):
        (path,) = (tmp_path / directory).iterdir()
        record = json.loads(path.read_text())["lanes"]
        assert path.name == f"{record['date']}{suffix}.json"
        assert record["machine"].get("gpu") == gpu
    shown = readme.read_text().partition(f"<!-- begin lanes{suffix} -->")[2]
    assert "| 1 |" in shown.partition("<!-- end")[0]
    assert readme.read_text().count("| 1 |") == 1
    assert ("NVIDIA X, " in shown) == (gpu is not None)


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


@pytest.mark.slow
def test_lanes_are_measured_on_a_core(digits_data_dir: Path) -> None:
    result = lanes.measure(Settings(str(digits_data_dir), quick=True, rounds=1))
    assert result["stopped"] == []
    assert {(case["form"], case["lanes"], case["processes"]) for case in result["cases"]} == {
        *(("alone", 1, 1), ("alone", 1, 2)),
        *((form, n, 1) for form in ("in turn", "abreast") for n in (1, 2)),
        *((form, 2, 2) for form in ("in turn", "abreast")),
    }
    for case in result["cases"]:
        (measured,) = case["rounds"]
        assert len(measured["processes"]) == case["processes"]
        # They have trained at the same time.
        assert max(process["begun"] for process in measured["processes"]) < min(
            process["ended"] for process in measured["processes"]
        )
    assert len(lanes.table(result).rows) == 8
