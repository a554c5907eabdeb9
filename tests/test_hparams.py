"""The table's own consistency, each rule at its ends, and what `complete` says of wrong input."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_tune.errors import ConfigError
from mnist_tune.hparams import HPARAMS, complete, nearest

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def test_defaults_are_the_original_programs() -> None:
    assert complete({}) == {
        "learning_rate": 0.1,
        "beta": 0.9,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup_epochs": 0.0,
        "batch_size": 128,
        "features": [32, 64],
        "dense_units": 256,
        "seed": 0,
    }


@pytest.mark.parametrize("name", HPARAMS)
def test_key_and_help_of_each(name: str) -> None:
    assert HPARAMS[name].name == name
    assert HPARAMS[name].help.endswith(".")


def test_only_what_changes_shapes_is_not_traced() -> None:
    untraced = {name for name, hparam in HPARAMS.items() if not hparam.traced}
    assert untraced == {"batch_size", "features", "dense_units"}


@pytest.mark.parametrize(
    ("name", "value", "checked"),
    [
        ("learning_rate", 5e-324, 5e-324),
        ("learning_rate", 1000, 1000.0),
        ("beta", 0, 0.0),
        ("beta", math.nextafter(1.0, 0.0), math.nextafter(1.0, 0.0)),
        ("weight_decay", 0.0, 0.0),
        ("batch_size", 64.0, 64),
        ("batch_size", 65_536, 65_536),
        ("seed", 2**32 - 1, 2**32 - 1),
        ("schedule", "cosine", "cosine"),
        ("features", (1, 4096), [1, 4096]),
    ],
)
def test_values_at_the_ends_are_taken_in_their_type(
    name: str, value: object, checked: object
) -> None:
    got = HPARAMS[name].check(value)
    assert got == checked
    assert type(got) is type(checked)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", 1000.1),
        ("learning_rate", True),
        ("learning_rate", "0.1"),
        ("learning_rate", math.nan),
        ("beta", 1.0),
        ("beta", -1e-9),
        ("weight_decay", math.inf),
        ("batch_size", 0),
        ("batch_size", 64.5),
        ("batch_size", 10**400),
        ("batch_size", None),
        ("seed", 2**32),
        ("seed", -1),
        ("schedule", "cosin"),
        ("schedule", 3),
        ("features", [32]),
        ("features", [32, 64, 128]),
        ("features", [32, 0]),
        ("features", [32, math.inf]),
        ("features", 32),
        ("features", "32"),
    ],
)
def test_values_beyond_are_refused_with_the_rule_and_the_value(name: str, value: object) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the whole text is compared)
        HPARAMS[name].check(value)
    assert str(caught.value) == f"{HPARAMS[name].rule}; got {value!r}"


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("learning_rate", "must be a number > 0 and ≤ 1000"),
        ("beta", "must be a number ≥ 0 and < 1"),
        ("batch_size", "must be an integer ≥ 1 and ≤ 65536"),
        ("seed", "must be an integer ≥ 0 and ≤ 4294967295"),
        ("features", "must be a list of 2 integers, each ≥ 1 and ≤ 4096"),
        ("schedule", "must be one of constant, linear, cosine"),
    ],
)
def test_rule_in_words(name: str, rule: str) -> None:
    assert HPARAMS[name].rule == rule


@given(st.sampled_from(list(HPARAMS)), ANYTHING)
def test_check_takes_or_refuses_anything_and_never_fails_otherwise(
    name: str, value: object
) -> None:
    try:
        checked = HPARAMS[name].check(value)
    except ValueError:
        return
    assert HPARAMS[name].check(checked) == checked
    assert json.loads(json.dumps(checked)) == checked


def test_complete_names_every_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        complete({"betta": 0.5, "beta": 2, "seed": -1}, "best.yaml")
    assert str(caught.value).splitlines() == [
        "best.yaml: unknown hyperparameter 'betta'; did you mean 'beta'?",
        "best.yaml: beta must be a number ≥ 0 and < 1; got 2",
        "best.yaml: seed must be an integer ≥ 0 and ≤ 4294967295; got -1",
    ]


def test_complete_gives_each_config_its_own_lists() -> None:
    complete({})["features"].append(1)
    assert complete({})["features"] == [32, 64]


def test_nearest() -> None:
    assert nearest("learning-rate", HPARAMS) == "did you mean 'learning_rate'?"
    assert nearest("zzz", ["low", "high"]) == "known: low, high"
