"""A run directory: made in one step, read back as it was, refused in words when damaged."""

from __future__ import annotations

import csv
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from examples import DATA, SPACE, finished_run, keep_checkpoint, new_run, report, session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnist_tune import report as text_report
from mnist_tune.errors import MnistTuneError, RunError
from mnist_tune.experiment import (
    Experiment,
    open_experiment,
    write_trials,
)
from mnist_tune.results import table
from mnist_tune.runs import find_run, list_runs, remove_half_written, storage_path
from mnist_tune.yamls import dump_yaml, load_yaml


def test_what_is_created_is_opened(tmp_path: Path) -> None:
    created = new_run(
        tmp_path / "deep" / "er" / "run", metric="loss", gpus_per_trial=0.5, time_budget_s=1e-3
    )
    opened = open_experiment(created.path)
    assert opened.options == created.options
    assert opened.space.to_mapping() == created.space.to_mapping() == SPACE
    assert opened.data == created.data == DATA
    assert opened.results == created.results
    assert opened.results.metric == "loss"
    assert [t.config["learning_rate"] for t in opened.results.trials] == [0.01, 0.02, 0.03, 0.04]
    assert (opened.name, opened.path) == ("run", created.path)


def test_creating_leaves_two_files_and_nothing_beside_the_run(tmp_path: Path) -> None:
    new_run(tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["ledger.jsonl", "search.yaml"]
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


def test_what_is_recorded_is_opened(tmp_path: Path) -> None:
    experiment = finished_run(tmp_path / "run")
    opened = open_experiment(tmp_path / "run")
    # Text, for the NaN of a trial isn't equal to another NaN.
    assert repr(opened.results) == repr(experiment.results)
    assert opened.summary() == experiment.summary()
    assert opened.results.ended == "done"


def taken(tmp_path: Path) -> Path:
    new_run(tmp_path / "run")
    return tmp_path / "run"


def file_there(tmp_path: Path) -> Path:
    (tmp_path / "run").write_text("mine")
    return tmp_path / "run"


def empty_directory(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def broken_link(tmp_path: Path) -> Path:
    (tmp_path / "run").symlink_to("nowhere")
    return tmp_path / "run"


@pytest.mark.parametrize("place", [taken, file_there, empty_directory, broken_link])
def test_a_place_that_is_taken_is_left_alone(place: Callable[[Path], Path], tmp_path: Path) -> None:
    path = place(tmp_path)
    before = sorted(tmp_path.rglob("*")), os.lstat(path).st_mtime_ns
    with pytest.raises(RunError, match=r"run: exists already; .*--name.*mnist-tune resume .*run"):
        new_run(path)
    assert (sorted(tmp_path.rglob("*")), os.lstat(path).st_mtime_ns) == before


@pytest.mark.parametrize("below", ["run", "deep/run"])
def test_a_parent_that_is_a_file(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"run: cannot be made \(.*\); choose another --storage-pa"):
        new_run(tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="File name too long"):
        new_run(tmp_path / ("x" * 300))
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir(mode=0o500)
    if os.access(tmp_path / "storage", os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(RunError, match=r"cannot be made \(Permission denied\)"):
        new_run(tmp_path / "storage" / "run")


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_what_is_not_a_run(what: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    if what == "empty":
        path.mkdir()
    elif what == "file":
        path.touch()
    with pytest.raises(RunError, match=r"run: not a run directory \(no search.yaml\)"):
        open_experiment(path)


def replaced(file: str, *pairs: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        content = (run / file).read_text()
        for old, new in zip(pairs[::2], pairs[1::2], strict=True):
            assert old in content
            content = content.replace(old, new)
        (run / file).write_text(content)

    return damage


def written(file: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / file).write_bytes(content) and None


def gone(file: str) -> Callable[[Path], None]:
    return lambda run: (run / file).unlink()


def a_directory(file: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        (run / file).unlink()
        (run / file).mkdir()

    return damage


SEARCH, LEDGER, BEST = "search.yaml", "ledger.jsonl", "best.yaml"

DAMAGE = {
    "search.yaml empty": (written(SEARCH, b""), "must hold a mapping; got NoneType"),
    "search.yaml a list": (written(SEARCH, b"- 1\n"), "must hold a mapping; got list"),
    "search.yaml binary": (written(SEARCH, b"\xff\xfe\0"), "must be UTF-8 text"),
    "search.yaml not YAML": (written(SEARCH, b"a: [1\n"), "must be YAML"),
    "search.yaml tagged": (written(SEARCH, b"a: !!python/name:os.system\n"), "plain data"),
    "no options": (replaced(SEARCH, "options:", "option:"), "damaged: options is missing"),
    "options a list": (written(SEARCH, b"options: []\n"), "options must be a mapping; got"),
    "unknown option": (replaced(SEARCH, "metric:", "metrics:"), "unknown option 'metrics'; did"),
    "wrong option": (replaced(SEARCH, "seed: 0", "seed: x"), "--seed must be an integer ≥ 0"),
    "huge option": (
        replaced(SEARCH, "max_epochs: 10", "max_epochs: 0x" + "f" * 5000),
        "search.yaml",
    ),
    "no space": (replaced(SEARCH, "space:", "spaces:"), "damaged: space is missing"),
    "wrong space": (replaced(SEARCH, "low: 0.0001", "low: 2"), "low"),
    "no data": (replaced(SEARCH, "checksum:", "checksums:"), r"data\.checksum is missing"),
    "wrong data": (replaced(SEARCH, "train_size: 1150", "train_size: -1"), r"data\.train_size mu"),
    "NaN": (replaced(SEARCH, "checksum:", "more: .nan\n  checksum:"), "damaged: Out of range"),
    "surrogate": (replaced(SEARCH, "checksum:", 'more: "\\uD800"\n  checksum:'), "search.yaml"),
    "ledger empty": (written(LEDGER, b""), "damaged: holds no trials"),
    "no ledger": (gone(LEDGER), r"ledger\.jsonl: cannot be read \(No such file"),
    "a directory for a ledger": (a_directory(LEDGER), "cannot be read .Is a directory"),
    "ledger not JSON": (replaced(LEDGER, '"slots": 2}', "2}"), r"ledger\.jsonl:5: the ledger"),
    "a trial that is not": (replaced(LEDGER, '"trial": 3', '"trial": 9'), "damaged: trial 9 where"),
    "a config that is not": (replaced(LEDGER, '"beta": 0.9', '"beta": 9'), "beta must be"),
    "best.yaml empty": (written(BEST, b""), "best.yaml: must hold a mapping"),
    "best.yaml a directory": (a_directory(BEST), "best.yaml: cannot be read"),
    "no config": (replaced(BEST, "config:", "conf:"), r"best.yaml: damaged: config is missing"),
    "wrong best config": (replaced(BEST, "beta: 0.9", "beta: 9"), "best.yaml: config: beta must"),
    "no validation": (replaced(BEST, "epoch: 2", "epochs: 2"), r"validation\.epoch is missing"),
    "wrong accuracy": (replaced(BEST, "accuracy: 0.9", "accuracy: .nan"), "validation.accuracy mu"),
    "wrong test": (replaced(BEST, "loss: 0.5", "loss: x"), "test must be a mapping with accuracy"),
    "no trial": (replaced(BEST, "trial_id:", "trial:"), r"provenance\.trial_id is missing"),
    "wrong trial": (replaced(BEST, "'00000'", "0"), r"provenance\.trial_id must be text; got 0"),
    "NaN in best": (replaced(BEST, "seed: 0\n  max", "seed: .inf\n  max"), "damaged: Out of range"),
}


def look_at(run: Path) -> None:
    """All that commands do to show a run."""
    experiment = open_experiment(run)
    json.dumps([experiment.summary(), table(experiment.results)], allow_nan=False)
    text_report.show_text(experiment).encode()
    record = experiment.best_record()
    dump_yaml(record or {})
    json.dumps(record, allow_nan=False)
    write_trials(experiment)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_run_is_refused(name: str, tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    look_at(tmp_path / "run")
    damage, message = DAMAGE[name]
    damage(tmp_path / "run")
    with pytest.raises(RunError, match=message) as caught:
        look_at(tmp_path / "run")
    assert str(tmp_path / "run") in str(caught.value)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A good run, and what its files hold."""
    run = tmp_path_factory.mktemp("valid") / "run"
    finished_run(run)
    return run, {name: (run / name).read_bytes() for name in (SEARCH, LEDGER, BEST)}


# Pieces that mean something to a reader of YAML or JSON, so that nonsense gets far.
PIECES = st.sampled_from(
    [
        *(b"\n", b" ", b"  ", b":", b": ", b"- ", b"{", b"}", b"[", b"]", b",", b'"', b"'", b"#"),
        *(b"&a ", b"*a", b"!!", b"!x ", b"|", b">", b"%", b"@", b"?", b"\\", b"\t", b"\0", b"\x85"),
        *(b"1e999", b"-1", b"0x" + b"f" * 5000, b"9" * 5000, b".nan", b"NaN", b"-Infinity", b"1.5"),
        *(b"null", b"true", b"~", b"[]", b"{}", b"\\ud800", b"\xff", "é".encode(), b"[" * 3000),
        *(b"trial", b"epoch", b"config", b"stop", b"2001-01-01", b"<<: ", b"x" * 400),
    ]
)
MUTATIONS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 12), PIECES | st.binary(max_size=3)),
    min_size=1,
    max_size=4,
)


@pytest.mark.slow
@pytest.mark.parametrize("file", [SEARCH, LEDGER, BEST])
@settings(max_examples=700, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations=MUTATIONS)
def test_a_mutated_run_is_shown_or_refused(
    mutations: list[tuple[float, int, bytes]], file: str, valid: tuple[Path, dict[str, bytes]]
) -> None:
    run, contents = valid
    content = contents[file]
    for place, replaced_bytes, piece in mutations:
        at = int(place * len(content))
        content = content[:at] + piece + content[at + replaced_bytes :]
    (run / file).write_bytes(content)
    try:
        look_at(run)
    except MnistTuneError:
        pass
    finally:
        (run / file).write_bytes(contents[file])


def test_the_summary_is_what_the_command_line_promises(tmp_path: Path) -> None:
    experiment = finished_run(tmp_path / "run")
    summary = experiment.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary == {
        "name": "run",
        "path": str(tmp_path / "run"),
        "best": {
            "trial_id": "00000",
            "config": experiment.results.trials[0].config,
            "validation": {"accuracy": 0.9, "loss": 0.4, "epoch": 2},
            "test": {"accuracy": 0.875, "loss": 0.5},
        },
        "trials": {
            "total": 4,
            "completed": 1,
            "stopped_early": 2,
            "errored": 1,
            "unfinished": 0,
        },
        "epochs_trained": 5,
        "epochs_wasted": 0,
        "lanes": 1,
        "compilations": None,
        "wall_s": 12.346,
    }


def test_the_summary_before_there_is_a_best(tmp_path: Path) -> None:
    experiment = new_run(tmp_path / "run")
    assert experiment.best_record() is None
    summary = experiment.summary()
    assert summary["best"] is None
    assert summary["trials"]["unfinished"] == 4
    assert (summary["epochs_trained"], summary["wall_s"]) == (0, 0)


def test_the_table_as_a_file(tmp_path: Path) -> None:
    experiment = finished_run(tmp_path / "run")
    with (tmp_path / "run" / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = table(experiment.results)
    assert [list(row) for row in rows] == [list(row) for row in expected]
    assert [row["status"] for row in rows] == ["completed", "stopped", "errored", "stopped"]
    assert [float(row["learning_rate"]) for row in rows] == [0.01, 0.02, 0.03, 0.04]
    assert rows[1]["reason"] == "rung 1: rank 2 of 2, best 1 go on"
    assert (rows[3]["last_accuracy"], rows[3]["last_loss"]) == ("0.1", "")
    assert b"\r" not in (tmp_path / "run" / "trials.csv").read_bytes()


def test_the_table_is_replaced_in_one_step(tmp_path: Path) -> None:
    experiment = new_run(tmp_path / "run")
    write_trials(experiment)
    with (tmp_path / "run" / "trials.csv").open() as old:
        experiment.record(session(), report(0, 1, stop="all epochs"))
        write_trials(experiment)
        assert "completed" not in old.read()
    assert "completed" in (tmp_path / "run" / "trials.csv").read_text()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "ledger.jsonl",
        "search.yaml",
        "trials.csv",
    ]


def test_an_event_is_on_the_disk_before_it_is_taken_in(tmp_path: Path) -> None:
    experiment = new_run(tmp_path / "run")
    (tmp_path / "run" / "ledger.jsonl").rename(tmp_path / "elsewhere")
    (tmp_path / "run" / "ledger.jsonl").mkdir()
    with pytest.raises(OSError, match="directory"):
        experiment.record(report(0, 1))
    assert experiment.results.epochs_trained == 0


def test_best_yaml_keeps_every_bit(tmp_path: Path) -> None:
    experiment: Experiment = finished_run(tmp_path / "run")
    record = experiment.best_record()
    assert record is not None
    assert record == load_yaml(tmp_path / "run" / "best.yaml")
    assert record["config"] == experiment.results.trials[0].config
    assert list(record) == ["config", "validation", "test", "provenance"]


def test_runs_are_found_by_path_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = tmp_path / "storage"
    new_run(storage / "one")
    new_run(tmp_path / "here" / "one")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_run("one", storage) == tmp_path / "here" / "one"
    assert find_run("../storage/one", storage).resolve() == storage / "one"
    assert find_run("~/storage/one", storage) == storage / "one"
    assert find_run(str(storage / "one"), tmp_path) == storage / "one"
    monkeypatch.chdir(tmp_path)
    assert find_run("one", storage) == storage / "one"


@pytest.mark.parametrize("name", ["two", "", "~nobody-of-this-name", "x" * 5000, "a\0b", "../.."])
def test_a_run_that_is_not_there(name: str, tmp_path: Path) -> None:
    new_run(tmp_path / "storage" / "one")
    with pytest.raises(RunError, match=r"no run directory of this path, nor of this name in "):
        find_run(name, tmp_path / "storage")


def test_runs_are_listed_newest_last(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "nowhere") == []
    for age_s, name in enumerate(["newest", "older", "oldest"]):
        new_run(tmp_path / name)
        os.utime(tmp_path / name / "search.yaml", (1e9 - age_s, 1e9 - age_s))
    (tmp_path / "not a run").mkdir()
    (tmp_path / "file").touch()
    assert [path.name for path in list_runs(tmp_path)] == ["oldest", "older", "newest"]


def test_where_runs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert storage_path(None) == tmp_path / "mnist-tune-runs"
    assert storage_path("runs") == tmp_path / "runs"
    assert storage_path("~/runs") == tmp_path / "runs"
    assert storage_path("~nobody-of-this-name/runs") == tmp_path / "~nobody-of-this-name" / "runs"


class Planted:
    """Leaves a mark when it's unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_looking_at_a_run_executes_nothing(tmp_path: Path) -> None:
    run, mark = tmp_path / "run", tmp_path / "executed"
    experiment = finished_run(run)
    keep_checkpoint(experiment, "00000", 2)
    payload = pickle.dumps(Planted(mark))
    names = ["tuner.pkl", "searcher-state.pkl", "ray/tuner.pkl", "best.safetensors"]
    for name in (*names, "checkpoints/00000/params.pkl", "checkpoints/00000/last.safetensors"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(payload)
    look_at(run)
    for name in (SEARCH, LEDGER, BEST):
        kept = (run / name).read_bytes()
        tag = f"!!python/object/apply:os.mkdir ['{mark}']\n".encode()
        for content in (payload, b"a: " + tag, tag):
            (run / name).write_bytes(content)
            with pytest.raises(MnistTuneError):
                look_at(run)
        (run / name).write_bytes(kept)
    assert not mark.exists()


BOMB = (
    "import resource, sys\n"
    "from pathlib import Path\n"
    "resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))\n"
    "from mnist_tune.errors import RunError\n"
    "from mnist_tune.experiment import open_experiment\n"
    "try:\n"
    "    open_experiment(Path(sys.argv[1]))\n"
    "except RunError as refused:\n"
    "    print('refused', len(str(refused)) < 5000)\n"
)


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    laughs = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20))
    (tmp_path / "run" / SEARCH).write_text(f"a0: &a0 ha\n{laughs}options: *a19\n")
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "refused True\n", done.stderr


def test_what_a_killed_driver_left_half_written_is_removed(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run").path
    (run / ".mine").touch()
    before = sorted(run.iterdir())
    program = (
        "import os, sys; from pathlib import Path; from mnist_tune import checkpoints\n"
        "os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "checkpoints.write_atomically(Path(sys.argv[1]), b'a', sync=True)\n"
    )
    for name in ("best.yaml", "best.safetensors", "trials.csv", "search.yaml"):
        killed = subprocess.run([sys.executable, "-c", program, str(run / name)], check=False)
        assert killed.returncode == -9
    assert len(sorted(run.iterdir())) == len(before) + 4
    remove_half_written(run)
    assert sorted(run.iterdir()) == before
