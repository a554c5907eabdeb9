"""Every rule of a search's options, at its edge, and what is said of a value that breaks it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnist_tune.errors import ConfigError
from mnist_tune.options import SearchOptions, check_name, options_from
from mnist_tune.rungs import Rungs
from mnist_tune.yamls import dump_yaml, load_yaml

NAN, INF = float("nan"), float("inf")

INTEGERS = {
    "num_samples": 1,
    "max_epochs": 1,
    "grace_period": 1,
    "reduction_factor": 2,
    "seed": 0,
    "max_concurrent": 1,
    "max_failures": 0,
    "validation_size": 1,
    "train_size": 1,
}
NUMBERS = {"cpus_per_trial": "≥ 0.0001", "gpus_per_trial": "≥ 0", "time_budget_s": "> 0"}
WORDS = {
    "scheduler": "asha, fifo",
    "asha_type": "stopping, promotion",
    "searcher": "random, grid",
    "metric": "accuracy, loss",
}
OPTIONAL = {
    *("gpus_per_trial", "max_concurrent", "time_budget_s", "validation_size", "train_size"),
    *("data_dir", "address"),
}


def flag(name: str) -> str:
    return "--time-budget" if name == "time_budget_s" else "--" + name.replace("_", "-")


def refusal(**options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        SearchOptions(**options)
    return str(caught.value)


@pytest.mark.parametrize(("name", "low"), INTEGERS.items())
def test_integers(name: str, low: int) -> None:
    # Epochs wide enough for any grace period.
    others = {"max_epochs": 2**31 - 1} if name == "grace_period" else {}
    assert getattr(SearchOptions(**others, **{name: low}), name) == low
    assert getattr(SearchOptions(**others, **{name: 2**31 - 1}), name) == 2**31 - 1
    for wrong in (low - 1, -5, True, 1.0, NAN, INF, "3", [3], {}):
        message = f"{flag(name)} must be an integer ≥ {low}; got {wrong!r}"
        assert refusal(**{name: wrong}) == message


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("huge", [2**32, 10**400])
def test_integers_that_are_too_large(name: str, huge: int) -> None:
    high = 2**32 - 1 if name == "seed" else 2**31 - 1
    low = INTEGERS[name]
    message = f"{flag(name)} must be an integer ≥ {low} and ≤ {high}; got {huge}"
    assert refusal(**{name: huge}) == message


@pytest.mark.parametrize(("name", "low"), NUMBERS.items())
def test_numbers(name: str, low: str) -> None:
    for right in (1, 0.5, 1e-3, 1e9):
        assert getattr(SearchOptions(**{name: right}), name) == right
    wrong = [-1, -1e-9, NAN, INF, -INF, 10**400, True, "1", [1.0]]
    for value in [*wrong, 0, 0.0] if low != "≥ 0" else wrong:
        assert refusal(**{name: value}) == f"{flag(name)} must be a number {low}; got {value!r}"


def test_no_gpu_is_a_number_of_gpus() -> None:
    assert SearchOptions(gpus_per_trial=0).gpus_per_trial == 0


@pytest.mark.parametrize(("name", "words"), WORDS.items())
def test_words(name: str, words: str) -> None:
    for word in words.split(", "):
        assert getattr(SearchOptions(**{name: word}), name) == word
    for wrong in ("", "Asha", 1, ["asha"], {}):
        assert refusal(**{name: wrong}) == f"{flag(name)} must be one of {words}; got {wrong!r}"


@pytest.mark.parametrize("name", ["dataset", "data_dir"])
def test_texts(name: str) -> None:
    assert getattr(SearchOptions(**{name: "here"}), name) == "here"
    for wrong in (1, ["here"], Path("here"), False):
        assert refusal(**{name: wrong}) == f"{flag(name)} must be text; got {wrong!r}"


def test_an_address_names_no_module() -> None:
    for address in ("auto", "head:6379", "10.0.0.1:6379", "[::1]:6379", "ray://head:10001"):
        assert SearchOptions(address=address).address == address
    # Ray imports what stands before "://".
    for wrong in (
        "",
        "here",
        "ray://head",
        "ray://ray://head:10001",
        "evil://x",
        "evil://x:1",
        "a/b:1",
        "head:",
        "head:1/",
        1,
        ["auto"],
    ):
        assert refusal(address=wrong) == (
            "--address must be auto, HOST:PORT of a cluster's head, or ray://HOST:PORT of its "
            f"client server; got {wrong!r}"
        )


def test_lanes() -> None:
    for right in (1, 2, 64, "auto"):
        assert SearchOptions(lanes=right).lanes == right
    for wrong in (0, 65, True, 2.0, "8", "", None, [8]):
        message = f"--lanes must be auto, or an integer ≥ 1 and ≤ 64; got {wrong!r}"
        assert refusal(lanes=wrong) == message


def test_lanes_share_a_whole_gpu_or_none() -> None:
    for right in (0, 1, None):
        assert SearchOptions(lanes=8, gpus_per_trial=right).lanes == 8
    for lanes in (1, "auto"):
        assert SearchOptions(lanes=lanes, gpus_per_trial=0.5).lanes == lanes
    assert refusal(lanes=8, gpus_per_trial=0.5) == (
        "--gpus-per-trial must be 0 or 1 with --lanes 8, whose trials share it; got 0.5"
    )


@pytest.mark.parametrize("name", [field.name for field in fields(SearchOptions)])
def test_none_is_for_what_is_optional(name: str) -> None:
    if name in OPTIONAL:
        assert getattr(SearchOptions(**{name: None}), name) is None
    else:
        assert refusal(**{name: None}).startswith(f"{flag(name)} must be ")


def test_every_option_has_a_rule_and_a_test() -> None:
    names = {field.name for field in fields(SearchOptions)}
    assert names == {*INTEGERS, *NUMBERS, *WORDS, "dataset", "data_dir", "address", "lanes"}


def test_all_problems_at_once() -> None:
    assert refusal(num_samples=0, metric="f1", grace_period=0, cpus_per_trial=0).splitlines() == [
        "--num-samples must be an integer ≥ 1; got 0",
        "--grace-period must be an integer ≥ 1; got 0",
        "--metric must be one of accuracy, loss; got 'f1'",
        "--cpus-per-trial must be a number ≥ 0.0001; got 0",
    ]


def test_the_grace_period_fits_into_the_epochs() -> None:
    assert refusal(grace_period=11) == "--grace-period must be ≤ --max-epochs; got 11 > 10"
    assert SearchOptions(grace_period=10).milestones == ()
    assert SearchOptions(grace_period=11, scheduler="fifo").milestones == ()


def test_promotion_needs_asha() -> None:
    assert refusal(scheduler="fifo", asha_type="promotion") == (
        "--asha-type must be stopping with --scheduler fifo; got 'promotion'; leave one of the "
        "two out"
    )
    assert SearchOptions(scheduler="fifo", asha_type="stopping").milestones == ()


def test_rungs_are_as_asked() -> None:
    options = SearchOptions(max_epochs=5, reduction_factor=2, asha_type="promotion")
    assert options.rungs() == Rungs((1, 2, 4), 5, 2, "promotion")
    assert SearchOptions().rungs() == Rungs((1, 3, 9), 10, 3, "stopping")
    assert SearchOptions(scheduler="fifo").rungs() == Rungs((), 10, 3)


def test_milestones() -> None:
    assert SearchOptions().milestones == (1, 3, 9)
    assert SearchOptions(max_epochs=243).milestones == (1, 3, 9, 27, 81)
    assert SearchOptions(grace_period=2, reduction_factor=2).milestones == (2, 4, 8)
    assert SearchOptions(scheduler="fifo").milestones == ()


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


COUNTS = st.integers(1, 2**31 - 1)
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)
VALID = st.builds(
    lambda kind, **others: SearchOptions(scheduler=kind[0], asha_type=kind[1], **others),
    kind=st.sampled_from([("asha", "stopping"), ("asha", "promotion"), ("fifo", "stopping")]),
    dataset=st.text(),
    num_samples=COUNTS,
    max_epochs=st.integers(100, 2**31 - 1),
    grace_period=st.integers(1, 100),
    reduction_factor=st.integers(2, 2**31 - 1),
    searcher=st.sampled_from(["random", "grid"]),
    metric=st.sampled_from(["accuracy", "loss"]),
    seed=st.integers(0, 2**32 - 1),
    cpus_per_trial=st.floats(0.0001, allow_infinity=False) | COUNTS,
    gpus_per_trial=optional(st.floats(0, 1) | COUNTS),
    max_concurrent=optional(COUNTS),
    max_failures=st.integers(0, 2**31 - 1),
    time_budget_s=optional(POSITIVE),
    validation_size=optional(COUNTS),
    train_size=optional(COUNTS),
    data_dir=optional(st.text()),
    address=optional(st.sampled_from(["auto", "head:6379", "10.0.0.1:1"])),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(options=VALID)
def test_options_are_read_as_they_were_recorded(options: SearchOptions, tmp_path: Path) -> None:
    assert options_from(options.record(), "here") == options
    assert options_from(json.loads(json.dumps(options.record())), "here") == options
    (tmp_path / "options.yaml").write_bytes(dump_yaml(options.record()))
    assert options_from(load_yaml(tmp_path / "options.yaml"), "here") == options


def test_what_is_not_recorded_has_its_default() -> None:
    assert options_from({"seed": 3}, "here") == SearchOptions(seed=3)
    assert options_from({"seed": 3}, "here").asha_type == "stopping"


def test_unknown_options_are_named_with_a_hint() -> None:
    with pytest.raises(ConfigError) as caught:
        options_from({"max_epoch": 3, "zzz": 1, 7: 2}, "search.yaml")  # type: ignore[dict-item]
    first, second, third = str(caught.value).splitlines()
    assert first == "search.yaml: unknown option 'max_epoch'; did you mean 'max_epochs'?"
    assert second.startswith("search.yaml: unknown option 'zzz'; known: dataset, num_samples, ")
    assert third.startswith("search.yaml: unknown option '7'; known: ")


def test_each_recorded_problem_says_where() -> None:
    with pytest.raises(ConfigError) as caught:
        options_from({"max_epochs": 0, "seed": None}, "search.yaml")
    assert str(caught.value).splitlines() == [
        "search.yaml: --max-epochs must be an integer ≥ 1; got 0",
        "search.yaml: --seed must be an integer ≥ 0; got None",
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from([f.name for f in fields(SearchOptions)]), JSON, max_size=4))
def test_any_value_is_taken_or_refused_in_words(mapping: dict[str, Any]) -> None:
    try:
        options = options_from(mapping, "here")
    except ConfigError as error:
        lines = str(error).splitlines()
    else:
        assert options.record() == {**SearchOptions().record(), **mapping}
        return
    assert all(line.startswith("here: --") for line in lines)


@pytest.mark.parametrize("name", ["a", "lr-beta_2.final", "0", "x" * 100])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "a/b", "..", "a b", "a\n", "é", "x" * 101])
def test_names_that_cannot_be_a_directory(name: str) -> None:
    with pytest.raises(ConfigError, match=r"--name must be 1 to 100 letters, digits, .* got ") as e:
        check_name(name)
    assert repr(name) in str(e.value)
