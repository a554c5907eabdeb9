"""The one table of hyperparameters: names, defaults (the original program's), bounds."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from mnist_tune.errors import ConfigError

Config = dict[str, Any]
"""A full configuration: every name in ``HPARAMS`` with its value."""

SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class HParam:
    """One hyperparameter.

    Args:
        name: its name in a space file, in ``best.yaml`` and, with dashes, on the command line.
        default: the original program's value.
        kind: ``float``, ``int``, ``choice`` (one of ``values``) or ``ints`` (a list of integers).
        low: the lowest value; itself allowed unless ``low_open``.
        high: the highest value; itself allowed unless ``high_open``.
        traced: whether it is an argument of the compiled program; otherwise it changes
            shapes, and each value compiles anew.
        length: how many integers an ``ints`` has.
        help: one line for people.
    """

    name: str
    default: Any
    kind: Literal["float", "int", "choice", "ints"]
    help: str
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    values: tuple[str, ...] = ()
    length: int = 0
    traced: bool = True

    @property
    def rule(self) -> str:
        """The rule a value must satisfy, in words."""
        if self.kind == "choice":
            return "must be one of " + ", ".join(self.values)
        noun = {"float": "a number", "int": "an integer"}.get(self.kind, "")
        if self.kind == "ints":
            noun = f"a list of {self.length} integers, each"
        ends = []
        if self.low > -math.inf:
            ends.append(f"{'>' if self.low_open else '≥'} {self.low:g}")
        if self.high < math.inf:
            ends.append(f"{'<' if self.high_open else '≤'} {self.high:.10g}")
        return f"must be {noun} {' and '.join(ends)}".rstrip()

    def check(self, value: Any) -> Any:
        """Returns ``value`` in this hyperparameter's type.

        Raises:
            ValueError: the value breaks the rule; the message is the rule and the value.
        """
        if self.kind == "choice" and isinstance(value, str) and value in self.values:
            return value
        if self.kind == "float" and _is_number(value) and self._within(value):
            return float(value)
        if self.kind == "int" and _is_integer(value) and self._within(value):
            return int(value)
        if (
            self.kind == "ints"
            and isinstance(value, list | tuple)
            and len(value) == self.length
            and all(_is_integer(v) and self._within(v) for v in value)
        ):
            return [int(v) for v in value]
        raise ValueError(f"{self.rule}; got {value!r}")

    def _within(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below and math.isfinite(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return _is_number(value) and (isinstance(value, int) or value.is_integer())


_TABLE = (
    HParam("learning_rate", 0.1, "float", "Learning rate η.", low=0.0, low_open=True, high=1000.0),
    HParam("beta", 0.9, "float", "Momentum β in v ← βv + g.", low=0.0, high=1.0, high_open=True),
    HParam("weight_decay", 0.0, "float", "L2 penalty λ: g ← g + λθ.", low=0.0, high=1000.0),
    HParam(
        "schedule",
        "constant",
        "choice",
        "How the learning rate goes down to 0 over the run.",
        values=SCHEDULES,
    ),
    HParam(
        "warmup_epochs",
        0.0,
        "float",
        "Epochs in which the learning rate rises linearly from 0.",
        low=0.0,
        high=10_000.0,
    ),
    HParam("batch_size", 128, "int", "Images in a step.", low=1, high=65_536, traced=False),
    HParam(
        "features",
        (32, 64),
        "ints",
        "Channels of the two convolutions.",
        low=1,
        high=4096,
        length=2,
        traced=False,
    ),
    HParam("dense_units", 256, "int", "Hidden dense units.", low=1, high=65_536, traced=False),
    HParam(
        "seed",
        0,
        "int",
        "Seed of the initial weights and of the data order.",
        low=0,
        high=2**32 - 1,
    ),
)

HPARAMS: Mapping[str, HParam] = MappingProxyType({h.name: h for h in _TABLE})


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: `` (did you mean 'beta'?)``, or the known names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(known)


def complete(partial: Mapping[str, Any], where: str = "config") -> Config:
    """Returns the full configuration: ``partial`` checked, the rest from the table's defaults.

    Args:
        partial: hyperparameter name → value.
        where: what to call it in an error message.

    Raises:
        ConfigError: names every unknown name and every value that breaks its rule.
    """
    problems = [
        f"{where}: unknown hyperparameter {name!r}; {nearest(str(name), HPARAMS)}"
        for name in partial
        if name not in HPARAMS
    ]
    config: Config = {}
    for name, hparam in HPARAMS.items():
        try:
            config[name] = hparam.check(partial.get(name, hparam.default))
        except ValueError as error:
            problems.append(f"{where}: {name} {error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def shapes_of(config: Config) -> str:
    """What decides which program is run: the hyperparameters that aren't traced."""
    return repr([config[name] for name, hparam in HPARAMS.items() if not hparam.traced])
