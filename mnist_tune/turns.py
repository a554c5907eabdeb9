"""Whose turn it is on a device that lanes share. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Waiting(NamedTuple):
    """A lane that could train an epoch now.

    Attributes:
        trial: its number.
        shapes: lanes that differ in it can't run in one program.
        since: the turn after which it has waited; the device counts its turns.
        asked: whether its trial waits for this epoch; if not, it would run ahead of the trial.
        alone: whether it may not run beside others, since it could be what broke their program.
    """

    trial: int
    shapes: str
    since: int
    asked: bool
    alone: bool = False


def next_turn(waiting: Sequence[Waiting], most: int, abreast: bool) -> list[int]:
    """The trials that train an epoch next; none if none waits.

    Trials that ask come before those that would run ahead, and of each the one first that has
    waited longest: so shapes take turns. Abreast, others of its shapes come along, whether asked
    or not, since the program takes about as long with them; in turn only those that ask do.

    Args:
        waiting: the lanes that could run.
        most: how many lanes run in one program, ≥ 1.
        abreast: how they run, see ``lanes``.
    """
    if not waiting:
        return []
    order = sorted(waiting, key=lambda lane: (not lane.asked, lane.since, lane.trial))
    first = order[0]
    if first.alone:
        return [first.trial]
    beside = [
        lane.trial
        for lane in order
        if lane.shapes == first.shapes and not lane.alone and (abreast or lane.asked == first.asked)
    ]
    return beside[:most]
