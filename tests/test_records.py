"""What a shape asks of plain data, and in which words it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_tune.records import COUNT, MAPPING, NUMBER, TEXT, Shape, check, one_of, optional

SHAPE: Shape = {
    "name": TEXT,
    "epoch": COUNT,
    "scores": {"accuracy": NUMBER, "loss": optional(NUMBER)},
    "test": optional({"accuracy": NUMBER}),
    "metric": one_of("accuracy", "loss"),
    "config": MAPPING,
}
GOOD = {
    "name": "run",
    "epoch": 0,
    "scores": {"accuracy": 1, "loss": None},
    "test": {"accuracy": 0.5},
    "metric": "loss",
    "config": {},
}


@pytest.mark.parametrize("test", [None, {"accuracy": -0.0}, {"accuracy": 0, "more": object()}])
def test_what_fits(test: Any) -> None:
    check({**GOOD, "test": test, "more": object()}, SHAPE)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": None}, "name must be text; got None"),
        ({"name": "\ud800"}, r"name must be text; got '\\ud800'"),
        ({"epoch": -1}, "epoch must be an integer ≥ 0 and ≤ 2147483647; got -1"),
        ({"epoch": 2**31}, "got 2147483648"),
        ({"epoch": True}, "got True"),
        ({"epoch": 1.0}, r"got 1\.0"),
        ({"scores": {"accuracy": 1}}, r"scores\.loss is missing"),
        ({"scores": []}, r"scores must be a mapping; got \[\]"),
        ({"scores": {"accuracy": False, "loss": 1}}, r"scores\.accuracy must be a finite number;"),
        ({"scores": {"accuracy": 1, "loss": float("inf")}}, "a finite number, or null; got inf"),
        ({"scores": {"accuracy": float("nan"), "loss": 1}}, "a finite number; got nan"),
        ({"scores": {"accuracy": -(10**400), "loss": 1}}, "a finite number; got -1000"),
        ({"test": {"accuracy": "1"}}, "test must be a mapping with accuracy, or null; got"),
        ({"test": 1}, "test must be a mapping with accuracy, or null; got 1"),
        ({"metric": "f1"}, "metric must be one of accuracy, loss; got 'f1'"),
        ({"metric": ["loss"]}, r"metric must be one of accuracy, loss; got \['loss'\]"),
        ({"config": None}, "config must be a mapping; got None"),
        ({"name": list(range(1000))}, r"name must be text; got \[0, 1, .*…$"),
    ],
)
def test_what_does_not_fit(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check({**GOOD, **wrong}, SHAPE)


@pytest.mark.parametrize("record", [None, [], "name", 1])
def test_a_record_is_a_mapping(record: Any) -> None:
    with pytest.raises(ValueError, match=r"^it must be a mapping; got"):
        check(record, {})


@given(st.lists(st.floats() | st.integers(), max_size=50))
def test_sums_of_numbers_that_fit_are_finite(values: list[float]) -> None:
    fitting = [value for value in values if NUMBER.holds(value)]
    assert abs(sum(fitting)) < float("inf")
