"""The shapes of what a run directory records, checked before anything relies on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

MAX_COUNT = 2**31 - 1

# Sums of any number of such numbers are finite.
_MAX_NUMBER = 1e300


class Rule(NamedTuple):
    """What a value must be, in words and as a test; and whether there must be one."""

    words: str
    holds: Callable[[Any], bool]
    needed: bool = True


Shape = Mapping[str, "Rule | Shape"]
"""Field → the rule for its value, or the shape of the mapping that it holds."""


def check(record: Any, shape: Shape, at: str = "") -> None:
    """Checks a record; fields that the shape doesn't name may hold anything.

    Args:
        record: plain data, as read.
        shape: what it must have.
        at: what to call the record in a message.

    Raises:
        ValueError: it isn't a mapping, lacks a field, or a value breaks its rule.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"{at or 'it'} must be a mapping; got {_shown(record)}")
    for name, rule in shape.items():
        field = f"{at}.{name}" if at else name
        if name not in record:
            if isinstance(rule, Rule) and not rule.needed:
                continue
            raise ValueError(f"{field} is missing")
        if not isinstance(rule, Rule):
            check(record[name], rule, field)
        elif not rule.holds(record[name]):
            raise ValueError(f"{field} must be {rule.words}; got {_shown(record[name])}")


def one_of(*values: str) -> Rule:
    """One of these words."""
    return Rule("one of " + ", ".join(values), lambda value: value in values)


def optional(rule: Rule | Shape) -> Rule:
    """As the rule or shape says, or null."""
    words = rule.words if isinstance(rule, Rule) else "a mapping with " + ", ".join(rule)
    return Rule(f"{words}, or null", lambda value: value is None or _holds(rule, value))


def if_there(rule: Rule) -> Rule:
    """As the rule says, or missing."""
    return rule._replace(needed=False)


def _holds(rule: Rule | Shape, value: Any) -> bool:
    if isinstance(rule, Rule):
        return rule.holds(value)
    try:
        check(value, rule)
    except ValueError:
        return False
    return True


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= _MAX_NUMBER


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:59] + "…"


COUNT = Rule(f"an integer ≥ 0 and ≤ {MAX_COUNT}", _is_count)
NUMBER = Rule("a finite number", _is_number)
TEXT = Rule("text", _is_text)
MAPPING = Rule("a mapping", lambda value: isinstance(value, Mapping))
