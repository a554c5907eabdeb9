"""Runs in a store, on a real server; those in a directory are in test_experiment.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from examples import finished_run, keep_checkpoint, new_run, report, session
from object_store import objects

from mnist_tune import afar, ledger, on_head, storage
from mnist_tune.errors import CheckpointError, ConfigError, RunError
from mnist_tune.experiment import Experiment, open_experiment
from mnist_tune.places import join
from mnist_tune.results import table
from mnist_tune.runs import check_out, find_run, list_runs, storage_path
from mnist_tune.slots import Slots
from mnist_tune.training_run import evaluate_checkpoint, read_best
from mnist_tune.winner import keep_checkpoints, trial_settings, update_best


@pytest.fixture
def runs(bucket: str) -> str:
    return f"s3://{bucket}/team"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the objects that are written, in order, from now on."""
    names: list[str] = []
    write = storage.write_bytes

    def watched(uri: str, content: bytes) -> None:
        write(uri, content)
        names.append(uri.rpartition("/")[2])

    monkeypatch.setattr(storage, "write_bytes", watched)
    return names


def keep_in_store(experiment: Experiment, trial: str, epoch: int) -> bytes:
    """As a trial does; returns the checkpoint."""
    content = keep_checkpoint(experiment, trial, epoch)
    shutil.rmtree(experiment.checkpoints)
    name = f"best-{epoch:05d}.safetensors"
    storage.write_bytes(join(str(experiment.place), "checkpoints", trial, name), content)
    return content


def test_a_run_in_a_store_is_that_in_a_directory(runs: str, tmp_path: Path) -> None:
    stored, local = finished_run(join(runs, "run")), finished_run(tmp_path / "run")
    shutil.rmtree(stored.path)
    opened = open_experiment(find_run("run", runs))
    assert table(opened.results) == table(local.results)
    assert (opened.options, opened.data) == (local.options, local.data)
    assert opened.space.to_mapping() == local.space.to_mapping()
    assert {**opened.summary(), "path": None} == {**local.summary(), "path": None}
    assert opened.summary()["path"] == f"{runs}/run"
    assert read_best(f"{runs}/run/best.yaml") == read_best(tmp_path / "run" / "best.yaml")
    # Looking at it has made no copy of it.
    assert not stored.path.exists()


def test_a_run_in_a_store_is_read_for_a_person_elsewhere(runs: str) -> None:
    stored = finished_run(join(runs, "run"))
    shutil.rmtree(stored.path)
    # As a head does that has never had the run.
    here = afar.opened(on_head.look_up(lambda _kind, _value: None, "run", runs, None))
    assert (here.place, here.summary()) == (stored.place, stored.summary())


def test_a_run_that_another_search_has_made_meanwhile(runs: str) -> None:
    new_run(join(runs, "run"))
    with pytest.raises(RunError, match=r"team/run: exists already; choose another --name"):
        new_run(join(runs, "run"))


def test_what_a_run_is_made_of(runs: str, bucket: str, s3_address: str, written: list[str]) -> None:
    new_run(join(runs, "run"))
    assert written == ["00000000.jsonl", "search.yaml"]
    finished_run(join(runs, "other"))
    assert written[-2:] == ["best.yaml", "trials.csv"]
    assert {key for key in objects(s3_address, bucket) if "other" in key} == {
        f"team/other/{name}"
        for name in ("search.yaml", "ledger/00000000.jsonl", "best.yaml", "trials.csv")
    }


def test_where_runs_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MNIST_TUNE_STORAGE", "s3://bucket/runs/")
    assert storage_path(None) == "s3://bucket/runs"
    assert storage_path("gs://bucket") == "gs://bucket"
    assert storage_path(str(tmp_path)) == tmp_path
    monkeypatch.setenv("MNIST_TUNE_STORAGE", str(tmp_path / "a"))
    assert storage_path(None) == tmp_path / "a"
    monkeypatch.setenv("MNIST_TUNE_STORAGE", "")
    assert storage_path(None) == Path.home() / "mnist-tune-runs"
    monkeypatch.setenv("MNIST_TUNE_STORAGE", "os://bucket")
    with pytest.raises(ConfigError, match="must be s3://BUCKET/PREFIX"):
        storage_path(None)


def test_runs_are_found(runs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    new_run(join(runs, "one"))
    assert find_run("one", runs) == f"{runs}/one"
    assert find_run(f"{runs}/one/", tmp_path) == f"{runs}/one"
    new_run(tmp_path / "one")
    assert find_run("one", runs) == tmp_path / "one"


@pytest.mark.parametrize("name", ["two", "", "../team/one", "one/../one", "one?region=x", "a\0b"])
def test_a_run_that_is_not_there(name: str, runs: str) -> None:
    new_run(join(runs, "one"))
    with pytest.raises(RunError, match=r"no run directory of this path, nor of this name in s3://"):
        find_run(name, runs)


def test_a_uri_without_a_run(runs: str) -> None:
    with pytest.raises(RunError, match=r"team/two: there is no run \(no search.yaml\)"):
        find_run(f"{runs}/two", runs)


def test_runs_are_listed_newest_last(runs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list_runs(runs) == []
    for name in ("b", "a", "c"):
        new_run(join(runs, name))
    storage.write_bytes(join(runs, "no-run", "file"), b"")
    storage.write_bytes(join(runs, "file"), b"")
    times = {"a": 3.0, "b": 2.0, "c": 1.0, "no-run": None}
    monkeypatch.setattr(
        storage, "modified_s", lambda uris: [times[uri.split("/")[-2]] for uri in uris]
    )
    assert list_runs(runs) == [f"{runs}/{name}" for name in ("c", "b", "a")]
    monkeypatch.undo()


def test_times_are_the_servers(runs: str) -> None:
    new_run(join(runs, "a"))
    storage.write_bytes(join(runs, "no-run", "file"), b"")
    assert list_runs(runs) == [f"{runs}/a"]


@pytest.mark.parametrize("elsewhere", [True, False])
def test_going_on_begins_with_what_the_store_has(runs: str, elsewhere: bool) -> None:
    place = join(runs, "run")
    first = new_run(place)
    first.record(session(), report(0, 1))
    # As if the driver had been killed between its disk and the store.
    ledger.append(first.path / "ledger.jsonl", [report(1, 1)])
    (first.path / "best.yaml").write_text("stale")
    if elsewhere:
        shutil.rmtree(first.path)
        first.path.mkdir()

    second = check_out(place)
    assert [trial.epochs for trial in second.results.trials] == [1, 0, 0, 0]
    assert second.best_record() is None
    assert not (second.path / "best.yaml").exists()
    second.record(report(1, 1, 0.25), report(0, 2))
    assert storage.files(join(place, "ledger")) == ["00000000.jsonl", "00000001.jsonl"]
    opened = open_experiment(place)
    assert table(opened.results) == table(second.results)
    assert opened.results.trials[1].reports[0].accuracy == 0.25
    assert ledger.read(join(place, "ledger")) == ledger.read(second.path / "ledger.jsonl")


def test_a_new_run_takes_nothing_from_an_old_copy(runs: str) -> None:
    old = new_run(join(runs, "run"))
    old.record(report(0, 1))
    (old.path / "best.yaml").write_text("old")
    storage.delete_tree(str(old.place)).result()
    new = new_run(join(runs, "run"))
    assert open_experiment(new.path).results.epochs_trained == 0
    assert not (new.path / "best.yaml").exists()


def test_the_winner_comes_from_the_store(runs: str, written: list[str]) -> None:
    experiment = new_run(join(runs, "run"))
    experiment.record(report(0, 1, 0.5), report(1, 1, 0.9))
    assert update_best(experiment) is None
    content = keep_in_store(experiment, "00001", 1)
    del written[:]
    assert update_best(experiment) is experiment.results.best
    assert written == ["best.safetensors", "best.yaml"]
    assert storage.read_bytes(join(runs, "run", "best.safetensors")) == content
    assert read_best(join(runs, "run", "best.yaml")).validation["accuracy"] == 0.9


def test_checkpoints_of_finished_trials_are_removed(
    runs: str, bucket: str, s3_address: str
) -> None:
    experiment = new_run(join(runs, "run"))
    for trial in range(3):
        keep_in_store(experiment, f"{trial:05d}", 1)
    storage.write_bytes(join(runs, "run", "checkpoints", "notes", "file"), b"")
    experiment.record(report(0, 1), report(1, 1, stop="rung 1"))
    keep_checkpoints(experiment)
    storage.delete_tree(join(runs, "nothing")).result()
    assert [key for key in objects(s3_address, bucket) if "checkpoints" in key] == [
        f"team/run/checkpoints/{name}"
        for name in ("00000/best-00001.safetensors", "00002/best-00001.safetensors", "notes/file")
    ]


def test_workers_are_told_where_the_store_is(runs: str, s3_address: str) -> None:
    settings = trial_settings(new_run(join(runs, "run")), Slots(1.0, 0.0, 1))
    server = s3_address.replace(":", "%3A")
    query = f"?endpoint_override=http%3A%2F%2F{server}"
    assert settings.checkpoints == f"{runs}/run/checkpoints{query}"


def test_a_model_that_is_not_there(runs: str) -> None:
    with pytest.raises(CheckpointError, match=r"^s3://.*/best.safetensors: there is no such check"):
        evaluate_checkpoint(join(runs, "run", "best.safetensors"))
    storage.write_bytes(join(runs, "run", "best.safetensors"), b"none")
    with pytest.raises(CheckpointError, match=r"^s3://.*/best.safetensors: not a checkpoint of "):
        evaluate_checkpoint(join(runs, "run", "best.safetensors"))


@pytest.mark.parametrize("name", ["search.yaml", "best.yaml"])
def test_damage_is_found_where_it_is(name: str, runs: str) -> None:
    finished_run(join(runs, "run"))
    storage.write_bytes(join(runs, "run", name), b"options: 1\n")
    with pytest.raises(RunError, match=rf"^s3://.*/run/{name}: damaged: "):
        open_experiment(join(runs, "run")).summary()
