"""What a search is asked to do, checked before anything starts."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from mnist_tune.devices import Platform
from mnist_tune.errors import ConfigError
from mnist_tune.hparams import HPARAMS, nearest
from mnist_tune.places import Place
from mnist_tune.rungs import AshaType, Metric, Rungs, milestones

Scheduler = Literal["asha", "fifo"]
Searcher = Literal["random", "grid"]

MOST_LANES = 64

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_INTEGER = 2**31 - 1


@dataclass(frozen=True)
class SearchOptions:
    """All options of a search; checked when made.

    Attributes:
        dataset: a name in ``datasets.DATASETS``.
        num_samples: configurations drawn (grids: times the grid), ≥ 1.
        max_epochs: epochs of a trial that is never stopped, ≥ 1.
        scheduler: ``asha`` stops poor trials early, ``fifo`` runs all to the end.
        asha_type: at a rung, ASHA stops trials (``stopping``), or pauses all and promotes the best
            (``promotion``).
        grace_period: epochs before ASHA's first decision, ≥ 1.
        reduction_factor: ASHA's η: one in η goes on at each rung, ≥ 2.
        searcher: ``random`` draws, ``grid`` enumerates.
        metric: what is optimised on the validation set: ``accuracy`` up or ``loss`` down.
        seed: of the draws, and of every trial whose space doesn't set its own, ≥ 0, < 2**32.
        cpus_per_trial: CPU cores a trial, > 0.
        gpus_per_trial: GPUs a trial, ≥ 0; None: one where there are GPUs, else none.
        max_concurrent: trials at a time, ≥ 1; None: as many as fit.
        lanes: trials that share a slot, its process and its programs, ≥ 1, ≤ 64; ``auto``: as
            many as pay, which is one on a CPU.
        max_failures: how often a trial that dies is started again, ≥ 0.
        time_budget_s: seconds after which the search ends with what it has, though not before its
            first report; None: no limit.
        validation_size: images taken from the end of the training set; None: the default.
        train_size: images left to train on, from the start; None: all others.
        data_dir: where the data is; None: TFDS's place.
        address: a Ray cluster's address; None: a Ray of its own on this machine.
    """

    dataset: str = "mnist"
    num_samples: int = 16
    max_epochs: int = 10
    scheduler: Scheduler = "asha"
    asha_type: AshaType = "stopping"
    grace_period: int = 1
    reduction_factor: int = 3
    searcher: Searcher = "random"
    metric: Metric = "accuracy"
    seed: int = 0
    cpus_per_trial: float = 1.0
    gpus_per_trial: float | None = None
    max_concurrent: int | None = None
    lanes: int | Literal["auto"] = "auto"
    max_failures: int = 2
    time_budget_s: float | None = None
    validation_size: int | None = None
    train_size: int | None = None
    data_dir: str | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        problems = [p for name, rule in _RULES.items() if (p := rule(name, getattr(self, name)))]
        if not problems and self.scheduler == "asha" and self.grace_period > self.max_epochs:
            problems.append(
                f"--grace-period must be ≤ --max-epochs; got {self.grace_period} > "
                f"{self.max_epochs}"
            )
        if not problems and self.scheduler == "fifo" and self.asha_type != "stopping":
            problems.append(
                f"--asha-type must be stopping with --scheduler fifo; got {self.asha_type!r}; "
                "leave one of the two out"
            )
        if (
            not problems
            and self.lanes not in {1, "auto"}
            and self.gpus_per_trial not in {0, 1, None}
        ):
            problems.append(
                f"--gpus-per-trial must be 0 or 1 with --lanes {self.lanes}, whose trials share "
                f"it; got {self.gpus_per_trial!r}"
            )
        if problems:
            raise ConfigError("\n".join(problems))

    @property
    def milestones(self) -> tuple[int, ...]:
        """The epochs of the rungs; none without early stopping."""
        if self.scheduler == "fifo":
            return ()
        return milestones(self.max_epochs, self.grace_period, self.reduction_factor)

    def rungs(self) -> Rungs:
        """ASHA's bookkeeping for this search, empty."""
        return Rungs(self.milestones, self.max_epochs, self.reduction_factor, self.asha_type)

    def record(self) -> dict[str, Any]:
        """All options as plain values; ``options_from`` reads them back."""
        return asdict(self)


@dataclass(frozen=True)
class TrialSettings:
    """What is the same for all trials of a search.

    Attributes:
        checkpoints: the directory or URI below which each trial has its own.
        max_epochs: over which a learning rate schedule goes down.
        metric: what makes a report the best.
        device: ``cpu`` or ``gpu``.
        threads: XLA's threads on a CPU.
        lanes: how many trials share a device.
        data: what the run's search.yaml says of the data; kept in checkpoints.
        versions: the driver's; a trial runs with the same.
    """

    checkpoints: Place
    max_epochs: int
    metric: Metric
    device: Platform
    threads: int
    lanes: int
    data: dict[str, Any]
    versions: dict[str, str]


def options_from(mapping: Mapping[str, Any], where: str) -> SearchOptions:
    """Reads options from plain values.

    Raises:
        ConfigError: names what is unknown or breaks a rule.
    """
    known = [field.name for field in fields(SearchOptions)]
    unknown = [str(name) for name in mapping if name not in known]
    if unknown:
        raise ConfigError(
            "\n".join(
                f"{where}: unknown option {name!r}; {nearest(name, known)}" for name in unknown
            )
        )
    try:
        return SearchOptions(**mapping)
    except ConfigError as error:
        raise ConfigError(
            "\n".join(f"{where}: {line}" for line in str(error).splitlines())
        ) from None


def is_name(name: str) -> bool:
    """Whether a run can have this name."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Returns a run's name if it can be a directory's.

    Raises:
        ConfigError: it can't.
    """
    if not is_name(name):
        raise ConfigError(
            "--name must be 1 to 100 letters, digits, '.', '_' or '-', the first a letter or "
            f"digit; got {name!r}"
        )
    return name


def _flag(name: str) -> str:
    return "--" + name.removesuffix("_s").replace("_", "-")


def _integer(low: int, high: int = _MAX_INTEGER, optional: bool = False) -> Any:
    def rule(name: str, value: Any) -> str | None:
        if value is None and optional:
            return None
        number = isinstance(value, int) and not isinstance(value, bool)
        if number and low <= value <= high:
            return None
        bound = f" and ≤ {high}" if number and value > high else ""
        return f"{_flag(name)} must be an integer ≥ {low}{bound}; got {value!r}"

    return rule


def _number(low: float, low_open: bool = False, optional: bool = False) -> Any:
    def rule(name: str, value: Any) -> str | None:
        if value is None and optional:
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and low <= value <= sys.float_info.max and not (low_open and value == low):
            return None
        return f"{_flag(name)} must be a number {'>' if low_open else '≥'} {low}; got {value!r}"

    return rule


def _one_of(values: tuple[str, ...]) -> Any:
    def rule(name: str, value: Any) -> str | None:
        if value in values:
            return None
        return f"{_flag(name)} must be one of {', '.join(values)}; got {value!r}"

    return rule


def _text(optional: bool) -> Any:
    def rule(name: str, value: Any) -> str | None:
        if isinstance(value, str) or (optional and value is None):
            return None
        return f"{_flag(name)} must be text; got {value!r}"

    return rule


def _address(name: str, value: Any) -> str | None:
    # Ray takes any other scheme of a URL for the name of a module, and imports it.
    rule = r"auto|(ray://)?[^/\s]+:[0-9]+"
    if value is None or (isinstance(value, str) and re.fullmatch(rule, value)):
        return None
    return (
        f"{_flag(name)} must be auto, HOST:PORT of a cluster's head, or ray://HOST:PORT of its "
        f"client server; got {value!r}"
    )


def _gpus(name: str, value: Any) -> str | None:
    problem: str | None = _number(0, optional=True)(name, value)
    if problem is None and value is not None and value > 1 and value != int(value):
        return f"{_flag(name)} must be ≤ 1 or a whole number; got {value!r}"
    return problem


def _lanes(name: str, value: Any) -> str | None:
    number = isinstance(value, int) and not isinstance(value, bool)
    if value == "auto" or (number and 1 <= value <= MOST_LANES):
        return None
    return f"{_flag(name)} must be auto, or an integer ≥ 1 and ≤ {MOST_LANES}; got {value!r}"


_RULES = {
    "dataset": _text(optional=False),
    "num_samples": _integer(1),
    "max_epochs": _integer(1),
    "scheduler": _one_of(get_args(Scheduler)),
    "asha_type": _one_of(get_args(AshaType)),
    "grace_period": _integer(1),
    "reduction_factor": _integer(2),
    "searcher": _one_of(get_args(Searcher)),
    "metric": _one_of(get_args(Metric)),
    "seed": _integer(0, high=int(HPARAMS["seed"].high)),
    "cpus_per_trial": _number(0.0001),
    "gpus_per_trial": _gpus,
    "max_concurrent": _integer(1, optional=True),
    "lanes": _lanes,
    "max_failures": _integer(0),
    "time_budget_s": _number(0, low_open=True, optional=True),
    "validation_size": _integer(1, optional=True),
    "train_size": _integer(1, optional=True),
    "data_dir": _text(optional=True),
    "address": _address,
}
