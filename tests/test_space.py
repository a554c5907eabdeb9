"""Spaces from files and mappings, and the configs drawn from them."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import tune
from ray.tune.search.variant_generator import generate_variants

from mnist_tune.distributions import DISTRIBUTIONS
from mnist_tune.errors import ConfigError, SpaceError
from mnist_tune.hparams import HPARAMS, complete
from mnist_tune.space import (
    MAX_CONFIGS,
    Parameter,
    domains,
    draw,
    grid_size,
    load_space,
    space_from_mapping,
)

SPACES = sorted((Path(__file__).parent.parent / "search_spaces").glob("*.yaml"))


@st.composite
def parameters(pick: st.DrawFn, name: str) -> Any:
    """A valid distribution or value of one hyperparameter."""
    hparam = HPARAMS[name]
    low = 1e-6 if hparam.low_open else hparam.low
    high = math.nextafter(hparam.high, 0) if hparam.high_open else hparam.high
    if hparam.kind == "choice":
        values: st.SearchStrategy[Any] = st.sampled_from(hparam.values)
    elif hparam.kind == "float":
        values = st.floats(low, high)
    else:
        values = st.integers(int(low), int(high))
        if hparam.kind == "ints":
            values = st.lists(values, min_size=hparam.length, max_size=hparam.length)
    fitting = ["fixed", "choice", "grid"]
    if hparam.kind in ("float", "int"):
        draws = ("int",) if hparam.kind == "int" else ("int", "float")
        fitting += [d.name for d in DISTRIBUTIONS.values() if d.draws in draws]
    kind = pick(st.sampled_from(fitting))
    if kind == "fixed":
        return pick(values)
    if kind in ("choice", "grid"):
        return {"distribution": kind, "values": pick(st.lists(values, min_size=1, max_size=3))}
    arguments: dict[str, Any] = {"mean": pick(st.floats(0.3, 0.7)), "sd": pick(st.floats(0.01, 1))}
    distribution = DISTRIBUTIONS[kind]
    if distribution.draws == "int":
        if high < 2:
            return pick(values)
        ends = st.integers(max(int(low), 1), int(high))
    else:
        ends = st.floats(max(low, 1e-6), high)
    a, b = sorted(pick(st.lists(ends, min_size=2, max_size=2, unique=True)))
    arguments |= {"low": a, "high": b, "q": b if distribution.draws == "int" else b / 3}
    if "mean" in distribution.needs:
        arguments["q"] = 0.01
    return {"distribution": kind} | {n: arguments[n] for n in distribution.needs}


MAPPINGS = st.sets(st.sampled_from(list(HPARAMS)), min_size=1, max_size=4).flatmap(
    lambda names: st.fixed_dictionaries({name: parameters(name) for name in sorted(names)})
)

MIXED = {
    "learning_rate": {"distribution": "loguniform", "low": 1e-4, "high": 1.0},
    "beta": {"distribution": "grid", "values": [0.0, 0.9]},
    "weight_decay": 0.001,
    "batch_size": {"distribution": "choice", "values": [64, 128]},
}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return path


def problems_of(tmp_path: Path, text: str) -> list[str]:
    path = write(tmp_path, text)
    with pytest.raises(SpaceError) as caught:
        load_space(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}:") for line in lines)
    return [line.removeprefix(f"{path}:") for line in lines]


# Reading


def test_load_space(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "parameters:\n"
        "  learning_rate: {distribution: loguniform, low: 1e-4, high: 1}\n"
        "  features: [16, 32]\n"
        "  schedule:\n"
        "    distribution: choice\n"
        "    values: [linear, cosine]\n",
    )
    space = load_space(path)
    assert space.source == str(path)
    assert space.parameters == (
        Parameter("learning_rate", "loguniform", {"low": 1e-4, "high": 1.0}),
        Parameter("features", "fixed", {"value": [16, 32]}),
        Parameter("schedule", "choice", {"values": ["linear", "cosine"]}),
    )


def test_every_problem_is_listed_at_its_line(tmp_path: Path) -> None:
    text = """\
parameter: 3
parameters:
  learning_rate: {distribution: loguniform, low: 0, high: 1}
  beta: {distribution: uniform, low: 0.9, high: 0.1}
  beta: 0.3
  betta: 0.4
  weight_decay:
    distribution: loguniform
    low: "1e-4"
    hihg: 1.0
  schedule: cosin
  batch_size:
    distribution: choice
    values:
      - 32
      - 0
  dense_units: &a 5
  seed: *a
  warmup_epochs: {distribution: unifrom, low: 0, high: 1}
  features: {values: [[1, 2]]}
"""
    assert problems_of(tmp_path, text) == [
        "1: unknown key 'parameter'; did you mean 'parameters'?",
        "3: learning_rate: low must be a number > 0 and ≤ 1000; got 0",
        "4: beta: low must be < high; got low=0.9, high=0.1",
        "5: duplicate key 'beta'; first given in line 4",
        "6: unknown hyperparameter 'betta'; did you mean 'beta'?",
        "9: weight_decay: low must be a finite number; got '1e-4'; that is text, "
        "write 0.0001 without quotes",
        "10: weight_decay: loguniform takes no argument 'hihg'; did you mean 'high'?",
        "11: schedule: must be one of constant, linear, cosine; got 'cosin'",
        "16: batch_size: values[1] must be an integer ≥ 1 and ≤ 65536; got 0",
        "17: anchors (&) and aliases (*) are not allowed; write the value out",
        "19: warmup_epochs: unknown distribution 'unifrom'; did you mean 'uniform'?",
        f"20: features: needs the key 'distribution', one of {', '.join(DISTRIBUTIONS)}; got none",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: must be a mapping with the key 'parameters'; got nothing"),
        ("# nothing\n", "1: must be a mapping with the key 'parameters'; got nothing"),
        ("- a", "1: must be a mapping with the key 'parameters'; got a list"),
        ("just words", "1: must be a mapping with the key 'parameters'; got a str"),
        ("{}", "1: needs the key 'parameters'; got none"),
        ("\nparameters:", "2: parameters must map at least one hyperparameter; got none"),
        ("parameters: {}", "1: parameters must map at least one hyperparameter; got none"),
        ("parameters: [beta]", "1: parameters must map at least one hyperparameter; got a list"),
        ("parameters: {beta: }", "1: beta: must be a number ≥ 0 and < 1; got None"),
        ("parameters: {beta: .nan}", "1: beta: must be a number ≥ 0 and < 1; got nan"),
        (
            "parameters: {beta: '0.5'}",
            "1: beta: must be a number ≥ 0 and < 1; got '0.5'; that is text, "
            "write 0.5 without quotes",
        ),
        (
            "parameters: {beta: {distribution: }}",
            "1: beta: unknown distribution 'None'; known: " + ", ".join(DISTRIBUTIONS),
        ),
        (
            "parameters: {beta: {distribution: [uniform]}}",
            "1: beta: unknown distribution \"['uniform']\"; did you mean 'uniform'?",
        ),
        (
            "parameters:\n  1: 2",
            "2: unknown hyperparameter '1'; known: " + ", ".join(HPARAMS),
        ),
    ],
)
def test_one_problem_is_one_line(tmp_path: Path, text: str, problem: str) -> None:
    assert problems_of(tmp_path, text) == [problem]


def test_parameters_at_the_top_level(tmp_path: Path) -> None:
    assert problems_of(tmp_path, "beta: 0.5") == [
        "1: 'beta' must be under 'parameters:'; got it at the top level",
        "1: needs the key 'parameters'; got none",
    ]


def test_thousands_of_problems_are_cut(tmp_path: Path) -> None:
    text = "parameters:\n" + "".join(f"  p{i}: 1\n" for i in range(300))
    path = write(tmp_path, text)
    with pytest.raises(SpaceError) as caught:
        load_space(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 101
    assert lines[-1] == f"{path}: and 200 more problems"


def test_long_values_are_cut(tmp_path: Path) -> None:
    [problem] = problems_of(tmp_path, f"parameters: {{schedule: {'x' * 10_000}}}")
    assert len(problem) <= 400


def test_space_from_mapping_names_what_it_was_told_and_every_problem() -> None:
    with pytest.raises(SpaceError) as caught:
        space_from_mapping(
            {"betta": 1, 5: 1, "beta": {"distribution": "uniform", "low": 0.9, "high": 0.1}}, "mine"
        )
    assert str(caught.value).splitlines() == [
        "mine: unknown hyperparameter 'betta'; did you mean 'beta'?",
        "mine: unknown hyperparameter '5'; known: " + ", ".join(HPARAMS),
        "mine: beta: low must be < high; got low=0.9, high=0.1",
    ]


@pytest.mark.parametrize("mapping", [None, {}, [], "beta", 3, np.zeros(2)])
def test_space_from_mapping_wants_a_mapping(mapping: Any) -> None:
    with pytest.raises(SpaceError, match=r"^space: parameters must map at least one hyperparam"):
        space_from_mapping(mapping)


@given(MAPPINGS)
def test_a_mapping_there_and_back(mapping: dict[str, Any]) -> None:
    space = space_from_mapping(mapping)
    plain = json.loads(json.dumps(space.to_mapping()))
    assert plain == mapping
    assert list(plain) == list(mapping)
    assert space_from_mapping(plain) == space
    assert pickle.loads(pickle.dumps(space)) == space


def test_to_mapping_shares_nothing_with_the_space() -> None:
    space = space_from_mapping(
        {"features": [1, 2], "beta": {"distribution": "choice", "values": [0.5]}}
    )
    plain = space.to_mapping()
    plain["features"].append(3)
    plain["beta"]["values"].append(0.7)
    assert space.to_mapping() == {
        "features": [1, 2],
        "beta": {"distribution": "choice", "values": [0.5]},
    }


# Drawing


def test_domains_are_a_param_space_for_ray_tune() -> None:
    space = domains(space_from_mapping(MIXED))
    assert space["weight_decay"] == 0.001
    assert space["beta"] == tune.grid_search([0.0, 0.9])
    assert list(space) == list(MIXED)
    resolved = [config for _, config in generate_variants(space)]
    assert [config["beta"] for config in resolved] == [0.0, 0.9]
    assert all(complete(config) for config in resolved)


@given(MAPPINGS, st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=150)
def test_every_draw_is_a_full_valid_config_within_its_range(
    mapping: dict[str, Any], seed: int
) -> None:
    space = space_from_mapping(mapping)
    configs = draw(space, 3, seed, "random")
    assert len(configs) == 3 * grid_size(space, "random")
    for config in configs:
        assert complete(config) == config
        assert list(config) == list(HPARAMS)
        for p in space.parameters:
            value = config[p.name]
            if "low" in p.arguments:
                assert p.arguments["low"] <= value <= p.arguments["high"]
            if "values" in p.arguments:
                assert value in p.arguments["values"]
            if "q" in p.arguments:
                multiple = value / p.arguments["q"]
                assert math.isclose(multiple, round(multiple), abs_tol=1e-6)


@given(MAPPINGS, st.integers(0, 100), st.integers(1, 4), st.integers(0, 4))
@settings(deadline=None, max_examples=50)
def test_the_first_configs_do_not_depend_on_how_many_are_drawn(
    mapping: dict[str, Any], seed: int, few: int, more: int
) -> None:
    space = space_from_mapping(mapping)
    first = draw(space, few, seed, "random")
    assert draw(space, few + more, seed, "random")[: len(first)] == first


def test_seeds_and_trials_differ() -> None:
    space = space_from_mapping({"beta": {"distribution": "uniform", "low": 0, "high": 0.9}})
    drawn = [config["beta"] for seed in range(5) for config in draw(space, 20, seed, "random")]
    assert len(set(drawn)) == 100


def test_the_stream_is_the_documented_one() -> None:
    space = space_from_mapping({"beta": {"distribution": "uniform", "low": 0.25, "high": 0.75}})
    expected = [np.random.default_rng([7, i]).uniform(0.25, 0.75) for i in range(3)]
    assert [config["beta"] for config in draw(space, 3, 7, "random")] == expected


def test_all_trials_share_the_seed_unless_the_space_has_one() -> None:
    assert [c["seed"] for c in draw(space_from_mapping(MIXED), 2, 11, "random")] == [11] * 4
    own = {"seed": {"distribution": "grid", "values": [1, 2]}}
    assert [c["seed"] for c in draw(space_from_mapping(own), 1, 11, "random")] == [1, 2]
    assert draw(space_from_mapping({"seed": 5}), 1, 11, "random")[0]["seed"] == 5


def test_random_search_goes_through_the_grid_as_ray_tune_does() -> None:
    mapping = {
        "weight_decay": {"distribution": "uniform", "low": 0.0, "high": 1.0},
        "beta": {"distribution": "grid", "values": [0.0, 0.5]},
        "batch_size": {"distribution": "grid", "values": [32, 64]},
    }
    space = space_from_mapping(mapping)
    configs = draw(space, 2, 0, "random")
    points = [(config["beta"], config["batch_size"]) for config in configs]
    assert points == [(0.0, 32), (0.0, 64), (0.5, 32), (0.5, 64)] * 2
    assert len({config["weight_decay"] for config in configs}) == 8
    theirs = [config for _ in range(2) for _, config in generate_variants(domains(space))]
    assert sorted((c["beta"], c["batch_size"]) for c in theirs) == sorted(points)
    assert len({config["weight_decay"] for config in theirs}) == 8


def test_grid_search_crosses_grids_and_choices_in_the_order_of_the_file() -> None:
    mapping = {
        "features": {"distribution": "choice", "values": [[1, 2], [3, 4]]},
        "weight_decay": 0.5,
        "beta": {"distribution": "grid", "values": [0.0, 0.5, 0.9]},
    }
    space = space_from_mapping(mapping)
    assert grid_size(space, "grid") == 6
    assert grid_size(space, "random") == 3
    configs = draw(space, 2, 3, "grid")
    once = [(f, b) for f in ([1, 2], [3, 4]) for b in (0.0, 0.5, 0.9)]
    assert [(config["features"], config["beta"]) for config in configs] == once * 2
    assert {config["weight_decay"] for config in configs} == {0.5}
    assert {config["seed"] for config in configs} == {3}


def test_grid_search_names_every_parameter_without_a_list() -> None:
    mapping = MIXED | {"warmup_epochs": {"distribution": "randint", "low": 0, "high": 3}}
    for call in (lambda s: grid_size(s, "grid"), lambda s: draw(s, 1, 0, "grid")):
        with pytest.raises(SpaceError) as caught:
            call(space_from_mapping(mapping, "f.yaml"))
        rule = "must be grid, choice or fixed for grid search"
        todo = "list its values, or search at random"
        assert str(caught.value).splitlines() == [
            f"f.yaml: learning_rate: {rule}; got loguniform; {todo}",
            f"f.yaml: warmup_epochs: {rule}; got randint; {todo}",
        ]


def test_a_space_of_fixed_values_is_one_point() -> None:
    space = space_from_mapping({"beta": 0.5})
    assert grid_size(space, "random") == grid_size(space, "grid") == 1
    assert draw(space, 1, 0, "grid") == draw(space, 1, 0, "random") == [complete({"beta": 0.5})]


def test_normal_draws_that_break_the_rule_are_drawn_again() -> None:
    mapping = {"learning_rate": {"distribution": "randn", "mean": 0.0, "sd": 1.0}}
    drawn = [c["learning_rate"] for c in draw(space_from_mapping(mapping), 50, 0, "random")]
    first = [np.random.default_rng([0, i]).normal(0.0, 1.0) for i in range(50)]
    assert min(first) < 0 < min(drawn)
    assert [value for value in drawn if value in first] == [value for value in first if value > 0]


@pytest.mark.parametrize("kind", ["randn", "qrandn"])
def test_normal_draws_far_outside_give_up(kind: str) -> None:
    given = {"distribution": kind, "mean": -5.0, "sd": 0.1} | ({"q": 0.1} if kind[0] == "q" else {})
    space = space_from_mapping({"learning_rate": given}, "f.yaml")
    message = rf"^f.yaml: learning_rate: must be .*; got no such value in 1000 draws from {kind} w"
    with pytest.raises(SpaceError, match=message):
        draw(space, 1, 0, "random")


def test_roundings_of_the_sampler_stay_inside() -> None:
    # exp(log(5)) is less than 5, and the range is a single step wide.
    high = math.nextafter(5.0, 6.0)
    mapping = {"warmup_epochs": {"distribution": "loguniform", "low": 5.0, "high": high}}
    drawn = {c["warmup_epochs"] for c in draw(space_from_mapping(mapping), 50, 0, "random")}
    assert drawn <= {5.0, high}
    mapping = {"warmup_epochs": {"distribution": "quniform", "low": 0.1, "high": 0.3, "q": 0.1}}
    drawn = {c["warmup_epochs"] for c in draw(space_from_mapping(mapping), 50, 0, "random")}
    assert drawn == {0.1, 0.2, 0.3}


@pytest.mark.parametrize(
    ("num_samples", "seed", "searcher", "message"),
    [
        (0, 0, "random", "num_samples must be ≥ 1; got 0"),
        (1, -1, "random", "draw: seed must be an integer ≥ 0 and ≤ 4294967295; got -1"),
        (1, 2**32, "random", "draw: seed must be an integer"),
        (1, 0, "rando", "unknown searcher 'rando'; did you mean 'random'?"),
    ],
)
def test_wrong_arguments(num_samples: int, seed: int, searcher: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        draw(space_from_mapping({"beta": 0.5}), num_samples, seed, searcher)
    assert str(caught.value).startswith(message)


def test_too_many_configs_are_refused_before_they_are_made() -> None:
    values = {"distribution": "grid", "values": [1, 2, 3, 4] * 300}
    space = space_from_mapping({"batch_size": values, "dense_units": values, "seed": values})
    message = rf"must give ≤ {MAX_CONFIGS} configs; got 3456000000 \(2 times a grid of 1728000000\)"
    with pytest.raises(SpaceError, match=message):
        draw(space, 2, 0, "grid")


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_the_spaces_that_come_along(path: Path) -> None:
    space = load_space(path)
    searcher = "grid" if path.stem == "grid" else "random"
    assert len(draw(space, 4, 0, searcher)) == 4 * grid_size(space, searcher)
    text = path.read_text().splitlines()
    comment = text[: text.index("parameters:")]
    assert 1 <= len(comment) <= 3
    assert all(line.startswith("# ") for line in comment)


def test_the_four_spaces_come_along() -> None:
    assert {path.stem for path in SPACES} == {"lr_beta", "momentum_full", "architecture", "grid"}
