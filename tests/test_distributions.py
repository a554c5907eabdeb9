"""The table against `ray.tune`, and both ends of every range against what Ray Tune draws."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import tune

from mnist_tune.distributions import DISTRIBUTIONS, check_arguments, ray_domain
from mnist_tune.hparams import HPARAMS

Problems = list[tuple[tuple[str | int, ...], str]]


def checked(distribution: str, hparam: str, **given: Any) -> tuple[dict[str, Any], Problems]:
    problems: Problems = []
    arguments = check_arguments(
        DISTRIBUTIONS[distribution],
        HPARAMS[hparam],
        given,
        lambda at, text: problems.append((at, text)),
    )
    return arguments, problems


def drawn(distribution: str, **arguments: Any) -> set[Any]:
    domain = ray_domain(distribution, arguments)
    rng = np.random.default_rng(0)
    return {domain.sample(random_state=rng) for _ in range(300)}


def test_all_of_ray_tunes_distributions_are_here() -> None:
    theirs = {"randn", "qrandn", "choice"} | {
        name for name in dir(tune) if name.endswith(("uniform", "randint"))
    }
    assert set(DISTRIBUTIONS) == theirs | {"grid"}


@pytest.mark.parametrize("name", [n for n in DISTRIBUTIONS if n not in ("choice", "grid")])
def test_arguments_are_in_ray_tunes_order(name: str) -> None:
    rename = {"lower": "low", "upper": "high"}
    theirs = [rename.get(p, p) for p in inspect.signature(getattr(tune, name)).parameters]
    ours = DISTRIBUTIONS[name]
    assert theirs[: len(ours.needs)] == list(ours.needs)
    assert ("base" in theirs) == ours.log


@pytest.mark.parametrize(
    ("name", "arguments", "values"),
    [
        ("randint", {"low": 1, "high": 3}, {1, 2, 3}),
        ("lograndint", {"low": 1, "high": 3}, {1, 2, 3}),
        ("qrandint", {"low": 1, "high": 3, "q": 1}, {1, 2, 3}),
        ("qrandint", {"low": 4, "high": 12, "q": 4}, {4, 8, 12}),
        ("qrandint", {"low": 1, "high": 15, "q": 4}, {4, 8, 12}),
        ("qlograndint", {"low": 1, "high": 3, "q": 1}, {1, 2, 3}),
        ("qlograndint", {"low": 4, "high": 12, "q": 4}, {4, 8, 12}),
        ("qlograndint", {"low": 1, "high": 15, "q": 4}, {4, 8, 12}),
        ("qrandint", {"low": 4294967291, "high": 4294967294, "q": 2}, {4294967292, 4294967294}),
        ("quniform", {"low": 0.0, "high": 0.5, "q": 0.25}, {0.0, 0.25, 0.5}),
        ("quniform", {"low": 0.1, "high": 0.7, "q": 0.25}, {0.25, 0.5}),
        ("qloguniform", {"low": 0.25, "high": 0.5, "q": 0.25}, {0.25, 0.5}),
        ("qloguniform", {"low": 0.001, "high": 0.6, "q": 0.25}, {0.25, 0.5}),
        ("choice", {"values": [[1, 2]]}, None),
    ],
)
def test_both_ends_are_drawn_and_nothing_beyond(
    name: str, arguments: dict[str, Any], values: set[Any] | None
) -> None:
    if values is None:
        assert ray_domain(name, arguments).categories == arguments["values"]
    else:
        assert drawn(name, **arguments) == values


@pytest.mark.parametrize("name", ["uniform", "loguniform"])
def test_the_ends_of_float_ranges_are_ray_tunes(name: str) -> None:
    domain = ray_domain(name, {"low": 0.25, "high": 0.75})
    assert (domain.lower, domain.upper) == (0.25, 0.75)
    assert all(0.25 <= value <= 0.75 for value in drawn(name, low=0.25, high=0.75))


def test_normal_distributions_keep_mean_sd_and_q() -> None:
    values = [*drawn("randn", mean=5.0, sd=0.5)]
    assert abs(np.mean(values) - 5) < 0.1
    assert abs(np.std(values) - 0.5) < 0.1
    assert drawn("qrandn", mean=5.0, sd=0.3, q=1.0) <= {4.0, 5.0, 6.0}


def test_grid_is_ray_tunes_grid_search() -> None:
    assert ray_domain("grid", {"values": [1, 2]}) == tune.grid_search([1, 2])


def test_base_changes_nothing_and_is_not_given_to_ray_tune() -> None:
    # Ray Tune warns when it is given a base, and warnings are errors here.
    assert drawn("loguniform", low=0.1, high=1.0, base=2.0) == drawn(
        "loguniform", low=0.1, high=1.0
    )
    assert checked("loguniform", "beta", low=0.1, high=0.9, base=2)[0]["base"] == 2.0


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_each_is_taken_where_it_fits(name: str) -> None:
    hparam = "batch_size" if DISTRIBUTIONS[name].draws == "int" else "weight_decay"
    given = {"low": 1, "high": 64, "q": 8, "mean": 0.5, "sd": 0.1, "values": [1, 2]}
    needed = {argument: given[argument] for argument in DISTRIBUTIONS[name].needs}
    arguments, problems = checked(name, hparam, **needed)
    assert problems == []
    assert arguments == needed
    number = int if DISTRIBUTIONS[name].draws == "int" else float
    assert all(type(value) is number for value in arguments.values() if value != [1, 2])


U = {"low": 0.1, "high": 0.9}


@pytest.mark.parametrize(
    ("name", "hparam", "given", "at", "text"),
    [
        ("uniform", "beta", {"low": 0.9, "high": 0.1}, "low",
         "low must be < high; got low=0.9, high=0.1"),
        ("randint", "batch_size", {"low": 3, "high": 3}, "low",
         "low must be < high; got low=3, high=3"),
        ("uniform", "beta", {"low": 0.1}, None, "uniform needs the argument 'high'; got none"),
        ("uniform", "beta", {**U, "q": 1}, "q",
         "uniform takes no argument 'q'; known: low, high"),
        ("uniform", "beta", {"lo": 0.1, "high": 0.9}, "lo",
         "uniform takes no argument 'lo'; did you mean 'low'?"),
        ("uniform", "beta", {"low": 0.1, "high": 1.5}, "high",
         "high must be a number ≥ 0 and < 1; got 1.5"),
        ("uniform", "beta", {"low": 0.1, "high": 1}, "high",
         "high must be a number ≥ 0 and < 1; got 1"),
        ("uniform", "learning_rate", {"low": 0.0, "high": 1}, "low",
         "low must be a number > 0 and ≤ 1000; got 0.0"),
        ("loguniform", "weight_decay", {"low": 0, "high": 1}, "low",
         "low must be > 0 for loguniform; got 0"),
        ("qlograndint", "seed", {"low": 0, "high": 8, "q": 2}, "low",
         "low must be > 0 for qlograndint; got 0"),
        ("uniform", "beta", {"low": math.nan, "high": 0.9}, "low",
         "low must be a finite number; got nan"),
        ("uniform", "beta", {"low": 0.1, "high": math.inf}, "high",
         "high must be a finite number; got inf"),
        ("randint", "seed", {"low": 0, "high": 10**400}, "high",
         "high must be a finite number; got 1000000"),
        ("randint", "seed", {"low": 0, "high": 10**5000}, "high",
         "high must be a finite number; got an integer of thousands of digits"),
        ("uniform", "beta", {"low": True, "high": 0.9}, "low",
         "low must be a finite number; got True"),
        ("uniform", "beta", {"low": None, "high": 0.9}, "low",
         "low must be a finite number; got None"),
        ("uniform", "beta", {"low": "x", "high": 0.9}, "low",
         "low must be a finite number; got 'x'"),
        ("uniform", "beta", {"low": "1e-4", "high": 0.9}, "low",
         "low must be a finite number; got '1e-4'; that is text, write 0.0001 without quotes"),
        ("uniform", "beta", {"low": "1e-7", "high": 0.9}, "low",
         "low must be a finite number; got '1e-7'; that is text, write 1.0e-07 without quotes"),
        ("quniform", "beta", {**U, "q": 0}, "q", "q must be > 0; got 0"),
        ("quniform", "beta", {**U, "q": -0.1}, "q", "q must be > 0; got -0.1"),
        ("quniform", "beta", {**U, "q": 5e-324}, "q",
         "q must be ≥ 9e-10 for these values; got 5e-324"),
        ("qrandn", "beta", {"mean": 0.5, "sd": 0.5, "q": 1e-300}, "q",
         "q must be ≥ 1e-09 for these values; got 1e-300"),
        ("quniform", "beta", {**U, "q": 0.95}, "q",
         "a multiple of q must lie from low=0.1 to high=0.9; got q=0.95"),
        ("qrandint", "batch_size", {"low": 33, "high": 63, "q": 32}, "q",
         "a multiple of q must lie from low=33 to high=63; got q=32"),
        ("qrandint", "batch_size", {"low": 1, "high": 64, "q": 1.5}, "q",
         "q must be an integer for qrandint; got 1.5"),
        ("randint", "warmup_epochs", {"low": 0.5, "high": 3}, "low",
         "low must be an integer for randint; got 0.5"),
        ("randn", "beta", {"mean": 0.5, "sd": 0}, "sd", "sd must be > 0; got 0"),
        ("loguniform", "beta", {**U, "base": 1}, "base", "base must be > 1; got 1"),
        ("uniform", "batch_size", {"low": 1, "high": 64}, None,
         "must be an integer ≥ 1 and ≤ 65536; got fractions from uniform; use randint"),
        ("qloguniform", "batch_size", {"low": 1, "high": 64, "q": 2}, None,
         "must be an integer ≥ 1 and ≤ 65536; got fractions from qloguniform; use qlograndint"),
        ("randint", "schedule", {"low": 1, "high": 2}, None,
         "must be one of constant, linear, cosine; got numbers from randint; use choice or grid"),
        ("lograndint", "features", {"low": 1, "high": 2}, None,
         "must be a list of 2 integers, each ≥ 1 and ≤ 4096; got numbers from lograndint; use"),
        ("choice", "beta", {}, None, "choice needs the argument 'values'; got none"),
        ("choice", "beta", {"values": []}, "values",
         "values must be a list of at least one value; got []"),
        ("grid", "beta", {"values": 0.5}, "values",
         "values must be a list of at least one value; got 0.5"),
        ("grid", "schedule", {"values": "linear"}, "values",
         "values must be a list of at least one value; got 'linear'"),
        ("grid", "beta", {"value": [0.5]}, "value",
         "grid takes no argument 'value'; did you mean 'values'?"),
    ],
)  # fmt: skip
def test_one_problem_is_one_message(
    name: str, hparam: str, given: Mapping[str, Any], at: str | None, text: str
) -> None:
    [(got_at, got)] = checked(name, hparam, **given)[1]
    assert got_at == (() if at is None else (at,))
    assert got.startswith(text)
    assert len(got) < 200


def test_every_listed_value_is_checked() -> None:
    _, problems = checked("choice", "batch_size", values=[64, 0, "32", 1.5, None])
    rule = "must be an integer ≥ 1 and ≤ 65536"
    assert problems == [
        (("values", 1), f"values[1] {rule}; got 0"),
        (("values", 2), f"values[2] {rule}; got '32'; that is text, write 32.0 without quotes"),
        (("values", 3), f"values[3] {rule}; got 1.5"),
        (("values", 4), f"values[4] {rule}; got None"),
    ]


def test_listed_lists() -> None:
    values = [[32, 64], (16.0, 32)]
    assert checked("choice", "features", values=values) == ({"values": [[32, 64], [16, 32]]}, [])


def test_all_problems_of_one_distribution_come_together() -> None:
    _, problems = checked("quniform", "batch_size", low=0, hihg=3, q=0)
    assert len(problems) == 4


@given(
    st.sampled_from(["qrandint", "qlograndint"]),
    st.integers(1, 500),
    st.integers(1, 500),
    st.integers(1, 40),
)
@settings(deadline=None)
def test_integer_multiples_are_ray_tunes(name: str, low: int, width: int, q: int) -> None:
    high = low + width
    multiples = {k for k in range(low, high + 1) if k % q == 0}
    arguments, problems = checked(name, "batch_size", low=low, high=high, q=q)
    assert bool(problems) == (not multiples)
    if not problems:
        assert drawn(name, **arguments) <= multiples
