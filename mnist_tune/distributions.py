"""The distributions a search space can name: their arguments, their rules, Ray Tune's form.

Both ends of every range are included: ``randint`` from 1 to 3 draws 1, 2 and 3. A range of a
``q`` distribution is the multiples of ``q`` in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from mnist_tune.hparams import HParam, nearest

Say = Callable[[tuple[str | int, ...], str], None]
"""Takes a problem: the way to it from the parameter, and the message."""

# Ray Tune compares with the nearest multiple at a relative 1e-9: finer ones run together.
_MAX_MULTIPLES = 1e9


@dataclass(frozen=True)
class Distribution:
    """One distribution.

    Args:
        name: its name in a space file and in ``ray.tune``.
        draws: what it draws; ``listed`` values may be of any type.
        needs: the arguments it must have, in the order in which Ray Tune takes them.
        log: whether it is uniform in the logarithm; it then takes a ``base``, which, as in
            Ray Tune, changes nothing: a log-uniform distribution is the same in every base.
    """

    name: str
    draws: Literal["float", "int", "listed"]
    needs: tuple[str, ...]
    log: bool = False

    @property
    def takes(self) -> tuple[str, ...]:
        """All the arguments that it can have."""
        return (*self.needs, "base") if self.log else self.needs


DISTRIBUTIONS: Mapping[str, Distribution] = MappingProxyType(
    {
        d.name: d
        for d in (
            Distribution("uniform", "float", ("low", "high")),
            Distribution("quniform", "float", ("low", "high", "q")),
            Distribution("loguniform", "float", ("low", "high"), log=True),
            Distribution("qloguniform", "float", ("low", "high", "q"), log=True),
            Distribution("randn", "float", ("mean", "sd")),
            Distribution("qrandn", "float", ("mean", "sd", "q")),
            Distribution("randint", "int", ("low", "high")),
            Distribution("qrandint", "int", ("low", "high", "q")),
            Distribution("lograndint", "int", ("low", "high"), log=True),
            Distribution("qlograndint", "int", ("low", "high", "q"), log=True),
            Distribution("choice", "listed", ("values",)),
            Distribution("grid", "listed", ("values",)),
        )
    }
)

_FOR_INTEGERS = {
    "quniform": "qrandint",
    "qrandn": "qrandint",
    "loguniform": "lograndint",
    "qloguniform": "qlograndint",
}


def check_value(hparam: HParam, value: Any) -> Any:
    """Returns ``value`` in the hyperparameter's type.

    Raises:
        ValueError: the value breaks the hyperparameter's rule.
    """
    try:
        return hparam.check(value)
    except ValueError as error:
        hint = _number_hint(value) if hparam.kind in ("float", "int") else ""
        raise ValueError(f"{error}{hint}") from None


def check_arguments(
    distribution: Distribution, hparam: HParam, given: Mapping[str, Any], say: Say
) -> dict[str, Any]:
    """Returns a distribution's arguments in their types, as far as they are valid.

    Args:
        distribution: what draws the values.
        hparam: the hyperparameter that the values are for.
        given: argument name → value.
        say: is told every problem.
    """
    name = distribution.name
    if distribution.draws != "listed" and hparam.kind in ("choice", "ints"):
        say((), f"{hparam.rule}; got numbers from {name}; use choice or grid")
        return {}
    if distribution.draws == "float" and hparam.kind == "int":
        use = _FOR_INTEGERS.get(name, "randint")
        say((), f"{hparam.rule}; got fractions from {name}; use {use}")
    _check_names(distribution, given, say)
    if distribution.draws == "listed":
        return _listed(hparam, given.get("values"), say) if "values" in given else {}
    return _numbers(distribution, hparam, given, say)


def _check_names(distribution: Distribution, given: Mapping[str, Any], say: Say) -> None:
    unknown = [name for name in given if name not in distribution.takes]
    hints = {name: nearest(str(name), distribution.takes) for name in unknown}
    for name, hint in hints.items():
        say((name,), f"{distribution.name} takes no argument {_shown(name)}; {hint}")
    for name in distribution.needs:
        if name not in given and f"did you mean {name!r}?" not in hints.values():
            say((), f"{distribution.name} needs the argument {name!r}; got none")


def _listed(hparam: HParam, values: Any, say: Say) -> dict[str, Any]:
    if not isinstance(values, list | tuple) or not values:
        say(("values",), f"values must be a list of at least one value; got {_shown(values)}")
        return {}
    checked = []
    for index, value in enumerate(values):
        try:
            checked.append(check_value(hparam, value))
        except ValueError as error:
            say(("values", index), f"values[{index}] {error}")
    return {"values": checked}


def _numbers(
    distribution: Distribution, hparam: HParam, given: Mapping[str, Any], say: Say
) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for name in distribution.takes:
        if name not in given:
            continue
        value = given[name]
        rule = _broken_rule(distribution, hparam, name, value)
        if rule:
            say((name,), f"{name} {rule}; got {_shown(value)}{_number_hint(value)}")
        else:
            whole = distribution.draws == "int" and name in ("low", "high", "q")
            numbers[name] = int(value) if whole else float(value)
    if all(name in numbers for name in distribution.needs):
        _check_range(numbers, say)
    return numbers


def _broken_rule(distribution: Distribution, hparam: HParam, name: str, value: Any) -> str:
    """The rule that one numeric argument breaks, or nothing."""
    if not _is_finite_number(value):
        return "must be a finite number"
    if name in ("low", "high"):
        try:
            hparam.check(value)
        except ValueError:
            return hparam.rule
        if distribution.log and value <= 0:
            return f"must be > 0 for {distribution.name}"
    elif name != "mean" and value <= (1 if name == "base" else 0):
        return f"must be > {1 if name == 'base' else 0}"
    whole = distribution.draws == "int" and name in ("low", "high", "q")
    return f"must be an integer for {distribution.name}" if whole and value % 1 else ""


def _check_range(numbers: Mapping[str, Any], say: Say) -> None:
    """Tells what is wrong with arguments that are each valid."""
    q = numbers.get("q")
    if "low" in numbers:
        low, high = numbers["low"], numbers["high"]
        if low >= high:
            say(("low",), f"low must be < high; got low={low!r}, high={high!r}")
            return
        largest = high
    else:
        largest = abs(numbers["mean"]) + numbers["sd"]
    if isinstance(q, float) and largest / q > _MAX_MULTIPLES:
        say(("q",), f"q must be ≥ {largest / _MAX_MULTIPLES:.3g} for these values; got {q!r}")
    elif q is not None and "low" in numbers:
        first, last = _multiples(low, high, q)
        if first > last:
            say(("q",), f"a multiple of q must lie from low={low!r} to high={high!r}; got q={q!r}")


def _multiples(low: float, high: float, q: float) -> tuple[int, int]:
    """The first and the last ``k`` with ``k · q`` in [low, high]."""
    if isinstance(q, int):
        return int(-(-low // q)), int(high // q)
    return _index(low / q, math.ceil), _index(high / q, math.floor)


def _index(ratio: float, inwards: Callable[[float], int]) -> int:
    whole = round(ratio)
    return whole if math.isclose(ratio, whole, rel_tol=1e-12) else inwards(ratio)


def ray_domain(name: str, arguments: Mapping[str, Any]) -> Any:
    """Returns Ray Tune's form of a distribution.

    The one place where ranges are converted. Ours include both ends. Ray Tune's ``randint``
    and ``lograndint``, and the two with a ``q`` of 1, leave the upper end out; those with
    another ``q`` include it; those of floats want ends that are multiples of ``q``.

    Args:
        name: a name in ``DISTRIBUTIONS``.
        arguments: its arguments, valid.
    """
    from ray import tune

    if name == "grid":
        return tune.grid_search(arguments["values"])
    ray_arguments = dict(arguments)
    if "low" in arguments:
        low, high, q = arguments["low"], arguments["high"], arguments.get("q")
        if q is not None:
            first, last = _multiples(low, high, q)
            low, high = first * q, last * q
        if DISTRIBUTIONS[name].draws == "int" and q in (None, 1):
            high += 1
        ray_arguments.update(low=low, high=high)
    return getattr(tune, name)(*(ray_arguments[need] for need in DISTRIBUTIONS[name].needs))


def _is_finite_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:
        return "an integer of thousands of digits"
    return text if len(text) <= 80 else text[:79] + "…"


def _number_hint(value: Any) -> str:
    """How to write a number that YAML read as text."""
    if not isinstance(value, str):
        return ""
    try:
        text = repr(float(value))
    except ValueError:
        return ""
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")
    return f"; that is text, write {text} without quotes"
