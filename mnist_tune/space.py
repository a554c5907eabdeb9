"""Search spaces: from a YAML file or a mapping, checked; to Ray Tune's domains and configs."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from mnist_tune import distributions
from mnist_tune.distributions import DISTRIBUTIONS
from mnist_tune.errors import ConfigError, SpaceError
from mnist_tune.hparams import HPARAMS, Config, complete, nearest
from mnist_tune.space_file import KeyPath, read_yaml

if TYPE_CHECKING:
    import numpy as np

Searcher = Literal["random", "grid"]

MAX_CONFIGS = 1_000_000
"""How many configs one ``draw`` can give."""

_MAX_TRIES = 1000
_MAX_LISTED = 100

_Report = Callable[[KeyPath, str], None]


@dataclass(frozen=True)
class Parameter:
    """What a space says of one hyperparameter.

    Args:
        name: a name in ``HPARAMS``.
        distribution: a name in ``DISTRIBUTIONS``, or ``fixed``.
        arguments: the distribution's, such as ``low`` and ``high`` (both ends included) or
            ``values``; ``value`` where it is fixed.
    """

    name: str
    distribution: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Space:
    """A valid search space.

    Args:
        parameters: in the order of the file; what is not here keeps its default.
        source: the file, or what else to call the space in a message.
    """

    parameters: tuple[Parameter, ...]
    source: str

    def to_mapping(self) -> dict[str, Any]:
        """Returns the plain form, which ``space_from_mapping`` takes and YAML and JSON can hold."""
        return {
            p.name: copy.deepcopy(
                p.arguments["value"]
                if p.distribution == "fixed"
                else {"distribution": p.distribution, **p.arguments}
            )
            for p in self.parameters
        }


def load_space(path: str | Path) -> Space:
    """Reads and checks a search space file.

    Args:
        path: a YAML file whose ``parameters`` map hyperparameters to distributions and values.

    Raises:
        SpaceError: the file cannot be read or is not valid; lists every problem, one a line,
            as ``file:line: parameter: rule; got value``.
    """
    document = read_yaml(path)
    problems = list(document.problems)

    def report(at: KeyPath, text: str) -> None:
        if at in document.unreadable:
            return
        while at not in document.lines:
            at = at[:-1]
        problems.append((document.lines[at], text))

    parameters = _read_document(document.data, report)
    if problems:
        # An anchor is met again at each of its aliases.
        in_order = sorted(dict.fromkeys(problems), key=lambda problem: problem[0])
        raise _all_of([f"{path}:{line}: {text}" for line, text in in_order], str(path))
    return Space(parameters, str(path))


def space_from_mapping(mapping: Mapping[str, Any], where: str = "space") -> Space:
    """Checks a search space given as plain data.

    Args:
        mapping: hyperparameter name → ``{"distribution": ..., ...}`` or a fixed value.
        where: what to call it in a message.

    Raises:
        SpaceError: lists every problem, one a line.
    """
    problems: list[str] = []
    parameters = _read_parameters(mapping, lambda _at, text: problems.append(f"{where}: {text}"))
    if problems:
        raise _all_of(problems, where)
    return Space(parameters, where)


def _all_of(problems: list[str], where: str) -> SpaceError:
    """An error that lists the problems; a file that is no space at all may have thousands."""
    lines = [text if len(text) <= 400 else text[:399] + "…" for text in problems[:_MAX_LISTED]]
    if len(problems) > _MAX_LISTED:
        lines.append(f"{where}: and {len(problems) - _MAX_LISTED} more problems")
    return SpaceError("\n".join(lines))


def _read_document(data: Any, report: _Report) -> tuple[Parameter, ...]:
    if not isinstance(data, dict):
        got = "nothing" if data is None else f"a {type(data).__name__}"
        report((), f"must be a mapping with the key 'parameters'; got {got}")
        return ()
    for key in data:
        if key in HPARAMS:
            report((key,), f"{key!r} must be under 'parameters:'; got it at the top level")
        elif key != "parameters":
            report((key,), f"unknown key {key!r}; {nearest(key, ['parameters'])}")
    if "parameters" not in data:
        report((), "needs the key 'parameters'; got none")
        return ()
    return _read_parameters(data["parameters"], report)


def _read_parameters(mapping: Any, report: _Report) -> tuple[Parameter, ...]:
    if not isinstance(mapping, Mapping) or not mapping:
        empty = mapping is None or isinstance(mapping, Mapping)
        got = "none" if empty else f"a {type(mapping).__name__}"
        report(("parameters",), f"parameters must map at least one hyperparameter; got {got}")
        return ()
    parameters = (_read_parameter(name, given, report) for name, given in mapping.items())
    return tuple(p for p in parameters if p is not None)


def _read_parameter(name: Any, given: Any, report: _Report) -> Parameter | None:
    if name not in HPARAMS:
        hint = nearest(str(name), HPARAMS)
        report(("parameters", name), f"unknown hyperparameter {str(name)[:60]!r}; {hint}")
        return None

    def say(at: tuple[str | int, ...], text: str) -> None:
        report(("parameters", name, *at), f"{name}: {text}")

    hparam = HPARAMS[name]
    if not isinstance(given, Mapping):
        try:
            return Parameter(name, "fixed", {"value": distributions.check_value(hparam, given)})
        except ValueError as error:
            say((), str(error))
            return None
    if "distribution" not in given:
        say((), f"needs the key 'distribution', one of {', '.join(DISTRIBUTIONS)}; got none")
        return None
    kind = given["distribution"]
    if not isinstance(kind, str) or kind not in DISTRIBUTIONS:
        hint = nearest(str(kind), DISTRIBUTIONS)
        say(("distribution",), f"unknown distribution {str(kind)[:60]!r}; {hint}")
        return None
    rest = {key: value for key, value in given.items() if key != "distribution"}
    arguments = distributions.check_arguments(DISTRIBUTIONS[kind], hparam, rest, say)
    return Parameter(name, kind, arguments)


def domains(space: Space) -> dict[str, Any]:
    """Returns the space in Ray Tune's form, a ``param_space`` for ``ray.tune.Tuner``.

    Fixed parameters are their plain values, grids are ``tune.grid_search``, hyperparameters
    that the space leaves out are left out. Ray Tune's own draws from ``randn`` and ``qrandn``
    can break a hyperparameter's rule; ``draw`` draws those again.
    """
    return {
        p.name: p.arguments["value"]
        if p.distribution == "fixed"
        else distributions.ray_domain(p.distribution, p.arguments)
        for p in space.parameters
    }


def grid_size(space: Space, searcher: Searcher) -> int:
    """Returns how many points the grid has: 1 where nothing is a grid.

    Args:
        space: the space.
        searcher: ``random`` counts ``grid`` parameters, ``grid`` counts ``choice`` also.

    Raises:
        ConfigError: the searcher is unknown.
        SpaceError: ``grid`` search of a space with a parameter that has no list of values.
    """
    return math.prod(len(p.arguments["values"]) for p in _grid(space, searcher))


def draw(space: Space, num_samples: int, seed: int, searcher: Searcher) -> list[Config]:
    """Returns the full configs of a search's trials.

    Config ``i`` comes from its own stream, ``np.random.default_rng([seed, i])``, by Ray Tune's
    own samplers, so that the first configs do not depend on how many are drawn. Draws of
    ``randn`` and ``qrandn`` that break the hyperparameter's rule are drawn again, up to 1000
    times. Grids are crossed in the order of the file, the last parameter fastest.

    Args:
        space: the space.
        num_samples: how many times to go through the grid, ≥ 1. ``random`` search draws the
            other parameters anew each time; ``grid`` search repeats the same configs.
        seed: of the draws, 0 ≤ seed < 2**32; also every config's ``seed``, so that trials
            differ in their hyperparameters alone, unless the space has a ``seed``.
        searcher: ``grid`` takes every value of every ``choice``; ``random`` draws one.

    Raises:
        ConfigError: ``num_samples``, ``seed`` or ``searcher`` is not valid.
        SpaceError: ``grid`` search of a space with a parameter that has no list of values;
            more than a million configs; no valid draw in 1000.
    """
    import numpy as np

    seed = complete({"seed": seed}, "draw")["seed"]
    if num_samples < 1:
        raise ConfigError(f"num_samples must be ≥ 1; got {num_samples}")
    total = num_samples * grid_size(space, searcher)
    if total > MAX_CONFIGS:
        raise SpaceError(
            f"{space.source}: must give ≤ {MAX_CONFIGS} configs; got {total} "
            f"({num_samples} times a grid of {total // num_samples}); take fewer samples or values"
        )
    grid = {p.name: p.arguments["values"] for p in _grid(space, searcher)}
    points = [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]
    fixed = {p.name: p.arguments["value"] for p in space.parameters if p.distribution == "fixed"}
    drawn = [
        (p, distributions.ray_domain(p.distribution, p.arguments))
        for p in space.parameters
        if p.name not in grid and p.distribution != "fixed"
    ]
    configs = []
    for i, (_, point) in enumerate(itertools.product(range(num_samples), points)):
        rng = np.random.default_rng([seed, i])
        values = {p.name: _draw_value(space, p, domain, rng) for p, domain in drawn}
        configs.append(complete({"seed": seed, **fixed, **point, **values}, space.source))
    return configs


def _grid(space: Space, searcher: Searcher) -> list[Parameter]:
    """The parameters of which every value is tried."""
    if searcher == "random":
        return [p for p in space.parameters if p.distribution == "grid"]
    if searcher not in get_args(Searcher):
        hint = nearest(str(searcher), get_args(Searcher))
        raise ConfigError(f"unknown searcher {str(searcher)[:60]!r}; {hint}")
    problems = [
        f"{space.source}: {p.name}: must be grid, choice or fixed for grid search; "
        f"got {p.distribution}; list its values, or search at random"
        for p in space.parameters
        if p.distribution not in ("grid", "choice", "fixed")
    ]
    if problems:
        raise SpaceError("\n".join(problems))
    return [p for p in space.parameters if p.distribution != "fixed"]


def _draw_value(space: Space, parameter: Parameter, domain: Any, rng: np.random.Generator) -> Any:
    arguments, hparam = parameter.arguments, HPARAMS[parameter.name]
    for _ in range(_MAX_TRIES):
        value = domain.sample(random_state=rng)
        if "low" in arguments:
            # A sampler that goes through logarithms or multiples can miss an end by a rounding.
            value = min(max(value, arguments["low"]), arguments["high"])
        try:
            return hparam.check(value)
        except ValueError:
            continue
    said = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    raise SpaceError(
        f"{space.source}: {parameter.name}: {hparam.rule}; got no such value in {_MAX_TRIES} "
        f"draws from {parameter.distribution} with {said}; move it into the range"
    )
