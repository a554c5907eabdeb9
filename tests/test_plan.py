"""What ``--dry-run`` says, that all is checked, and that nothing is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_tune import devices
from mnist_tune.errors import ConfigError, InputError, RunError, SpaceError
from mnist_tune.options import SearchOptions
from mnist_tune.plan import describe_plan, expected_epochs, expected_rungs, plan

SPACE = {"learning_rate": {"distribution": "loguniform", "low": 1e-4, "high": 1.0}, "beta": 0.5}


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return str(tmp_path / "storage")


@pytest.mark.parametrize(
    ("options", "configs", "expected"),
    [
        ({}, 27, [(1, 27), (3, 9), (9, 3), (10, 1)]),
        ({}, 16, [(1, 16), (3, 5), (9, 1), (10, 1)]),
        ({}, 1, [(1, 1), (3, 1), (9, 1), (10, 1)]),
        ({"max_epochs": 3}, 9, [(1, 9), (3, 3)]),
        ({"max_epochs": 1}, 9, [(1, 9)]),
        ({"grace_period": 4, "reduction_factor": 2}, 8, [(4, 8), (8, 4), (10, 2)]),
        ({"scheduler": "fifo"}, 8, [(10, 8)]),
        ({"asha_type": "promotion"}, 27, [(1, 27), (3, 9), (9, 3), (10, 1)]),
        ({"asha_type": "promotion"}, 16, [(1, 16), (3, 5), (9, 1), (10, 0)]),
        ({"asha_type": "promotion"}, 2, [(1, 2), (3, 0), (9, 0), (10, 0)]),
    ],
)
def test_rungs(options: dict[str, Any], configs: int, expected: list[tuple[int, int]]) -> None:
    found = expected_rungs(SearchOptions(**options), configs)
    assert found == [{"epoch": epoch, "trials": trials} for epoch, trials in expected]


def test_epochs() -> None:
    # 27 train epoch 1, 9 train 2 and 3, 3 train 4 to 9, 1 trains 10.
    rungs = expected_rungs(SearchOptions(), 27)
    assert expected_epochs(rungs) == 27 * 1 + 9 * 2 + 3 * 6 + 1 * 1
    assert expected_epochs(expected_rungs(SearchOptions(scheduler="fifo"), 27)) == 270
    # 16 train epoch 1, 5 train 2 and 3, 1 trains 4 to 9.
    rungs = expected_rungs(SearchOptions(asha_type="promotion"), 16)
    assert expected_epochs(rungs) == 16 + 5 * 2 + 6


@given(
    st.builds(
        SearchOptions,
        max_epochs=st.integers(20, 500),
        grace_period=st.integers(1, 20),
        reduction_factor=st.integers(2, 5),
    ),
    st.integers(1, 1000),
)
def test_stopping_early_never_takes_longer(options: SearchOptions, configs: int) -> None:
    rungs = expected_rungs(options, configs)
    assert options.max_epochs <= expected_epochs(rungs) <= configs * options.max_epochs
    assert [rung["epoch"] for rung in rungs] == [*options.milestones, options.max_epochs]
    assert [rung["trials"] for rung in rungs] == sorted(
        (rung["trials"] for rung in rungs), reverse=True
    )


def test_an_outline(storage: str) -> None:
    found = plan(
        SPACE,
        name="run",
        storage=storage,
        dataset="digits",
        data_dir=storage,
        num_samples=27,
        gpus_per_trial=0,
        max_concurrent=1,
    )
    assert found == {
        "path": f"{storage}/run",
        "space": SPACE,
        "configs": 27,
        "scheduler": "asha",
        "asha_type": "stopping",
        "rungs": [
            {"epoch": 1, "trials": 27},
            {"epoch": 3, "trials": 9},
            {"epoch": 9, "trials": 3},
            {"epoch": 10, "trials": 1},
        ],
        "data": {
            "name": "digits",
            "state": "absent",
            "train_size": 1150,
            "validation_size": 287,
            "test_size": 360,
        },
        # 64 epochs of 1,150 images at 17 s for 60,000.
        "estimate": {"epochs": 64, "epochs_without_stopping": 270, "training_s": 21},
        "lanes": "auto",
        "slots": {"cpus": 1.0, "gpus": 0, "count": 1, "lanes": 1},
    }
    assert not Path(storage).exists()


def test_more_slots_take_less_time_but_no_more_than_there_are_trials(storage: str) -> None:
    def seconds(**options: Any) -> float:
        found = plan(SPACE, storage=storage, gpus_per_trial=0, scheduler="fifo", **options)
        return float(found["estimate"]["training_s"])

    cores = devices.cpu_count()
    alone = seconds(num_samples=cores, max_concurrent=1)
    assert seconds(num_samples=cores) == pytest.approx(alone / cores, rel=0.01)
    share = 0.5 / cores
    assert seconds(num_samples=1, cpus_per_trial=share) == pytest.approx(alone / cores, rel=0.01)


def test_on_gpus_there_is_no_estimate_in_seconds(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnist_tune.searching.local_gpus", lambda: 2)
    found = plan(SPACE, storage=storage)
    assert found["slots"]["gpus"] == 1
    assert found["estimate"].keys() == {"epochs", "epochs_without_stopping"}
    assert "training:" not in describe_plan(found)
    said = "2 trials at a time, CPU cores for as many as turn out to pay: 1, GPUs for as many as"
    assert f"resources: {said}" in describe_plan(found)


def test_lanes_share_a_slot_and_its_time(storage: str) -> None:
    alone = plan(SPACE, storage=storage, gpus_per_trial=0, num_samples=64)
    found = plan(SPACE, storage=storage, gpus_per_trial=0, num_samples=64, lanes=4)
    assert found["slots"]["count"] == 4 * alone["slots"]["count"]
    assert found["estimate"] == alone["estimate"]
    assert "trials at a time, CPU cores for 4 of them: 1, GPUs for" in describe_plan(found)


def test_a_cluster_is_not_asked(storage: str) -> None:
    found = plan(SPACE, storage=storage, address="nowhere:1", cpus_per_trial=10_000)
    assert "slots" not in found
    assert "training_s" not in found["estimate"]
    assert "resources:" not in describe_plan(found)


def test_sizes_are_as_asked(storage: str) -> None:
    found = plan(SPACE, storage=storage, data_dir=storage, validation_size=1000, train_size=2000)
    assert found["data"] == {
        "name": "mnist",
        "state": "absent",
        "train_size": 2000,
        "validation_size": 1000,
        "test_size": 10_000,
    }
    assert plan(SPACE, storage=storage)["data"]["train_size"] == 55_000
    assert plan(SPACE, storage=storage, validation_size=59_999)["data"]["train_size"] == 1


def test_a_grid_is_multiplied(storage: str) -> None:
    space = {
        "beta": {"distribution": "grid", "values": [0.1, 0.2, 0.3]},
        "batch_size": {"distribution": "choice", "values": [64, 128]},
    }
    assert plan(space, storage=storage, num_samples=4)["configs"] == 12
    assert plan(space, storage=storage, num_samples=4, searcher="grid")["configs"] == 24


def test_a_file_for_a_space(storage: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("parameters:\n  beta: 0.25\n")
    found = plan(tmp_path / "mine.yaml", storage=storage, dataset="digits")
    assert found["space"] == {"beta": 0.25}
    assert Path(found["path"]).name.startswith("mine-digits-")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"validation_size": 60_000}, ConfigError, "--validation-size must be ≥ 0 and < 60000"),
        ({"train_size": 55_001}, ConfigError, "--train-size must be ≥ 1 and ≤ 55000, the training"),
        (
            {"dataset": "digits", "validation_size": 1437},
            ConfigError,
            "< 1437, the training images of digits; got 1437",
        ),
        ({"dataset": "mnits"}, ConfigError, "unknown data set 'mnits'; did you mean 'mnist'"),
        ({"name": "a/b"}, ConfigError, "--name must be 1 to 100 letters"),
        (
            {"scheduler": "fifo", "asha_type": "promotion"},
            ConfigError,
            "--asha-type must be stopping with --scheduler fifo; got 'promotion'",
        ),
        ({"max_epochs": 0}, ConfigError, "--max-epochs must be an integer ≥ 1; got 0"),
        ({"cpus_per_trial": 10_000}, ConfigError, "must fit what is there"),
        ({"searcher": "grid"}, SpaceError, "must be grid, choice or fixed for grid search"),
        ({"num_samples": 10**6 + 1}, SpaceError, "must give ≤ 1000000 configs; got 1000001"),
        ({"space": {"bta": 0.5}}, SpaceError, "unknown hyperparameter 'bta'"),
        ({"space": "/nowhere/space.yaml"}, SpaceError, "no such file"),
    ],
)
def test_all_is_checked_and_nothing_made(
    options: dict[str, Any], error: type[InputError], message: str, storage: str
) -> None:
    with pytest.raises(error, match=message):
        plan(**{"space": SPACE, "storage": storage, "gpus_per_trial": 0, **options})
    assert not Path(storage).exists()


def test_a_name_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(RunError, match="run: exists already"):
        plan(SPACE, name="run", storage=str(tmp_path))


def test_the_outline_says_that_trials_are_promoted(storage: str) -> None:
    found = plan(SPACE, storage=storage, num_samples=9, max_epochs=9, asha_type="promotion")
    assert found["asha_type"] == "promotion"
    lines = describe_plan(found).splitlines()
    assert "trials: 9, scheduler asha (promotion)" in lines
    assert "epochs in all: from 21, if no more go on at each rung, to 81" in lines


def test_the_outline_for_people(storage: str) -> None:
    found = plan(
        SPACE,
        name="run",
        storage=storage,
        data_dir=storage,
        num_samples=27,
        gpus_per_trial=0,
        max_concurrent=1,
    )
    assert describe_plan(found).splitlines() == [
        f"run directory: {storage}/run",
        "data: mnist (absent), 55000 to train on, 5000 to select by, 10000 to test the winner",
        "space:",
        "  learning_rate: loguniform low=0.0001 high=1.0",
        "  beta: 0.5",
        "trials: 27, scheduler asha",
        "  epoch  trials expected there",
        "      1  27",
        "      3  9",
        "      9  3",
        "     10  1",
        "epochs in all: from 64, if no more go on at each rung, to 270",
        "resources: 1 trials at a time, CPU cores each: 1, GPUs each: 0",
        "training: from about 997 s (17 s a core for 60,000 images with the default network), "
        "and half a minute to start, compile and test the winner",
        "nothing was started",
    ]
