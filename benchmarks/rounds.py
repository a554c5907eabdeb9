"""Measuring side by side: rounds in which every contestant has a turn; medians and ratios."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

Result = TypeVar("Result")


def interleave(
    contestants: Mapping[str, Callable[[], Result]], rounds: int
) -> dict[str, list[Result]]:
    """Runs every contestant once a round, so that what the machine does meanwhile hits all.

    Each round begins with the next contestant, so that none always follows the same one.

    Args:
        contestants: name → what measures it once.
        rounds: how often, ≥ 1.

    Returns:
        Name → a result a round.
    """
    names = list(contestants)
    results: dict[str, list[Result]] = {name: [] for name in names}
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            talk(f"round {i + 1} of {rounds}: {name}")
            results[name].append(contestants[name]())
    return results


def median(values: Sequence[float]) -> float:
    """The median; of an even number of values, the mean of the two in the middle."""
    return statistics.median(values)


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """How many times longer they take: the ratio of the medians; above 1, ours is faster."""
    return median(theirs) / median(ours)


def talk(text: str) -> None:
    """Prints a line that is not a result, on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
