"""The hyperparameters as options of a command, from the one table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from mnist_tune.hparams import HPARAMS, HParam

Command = TypeVar("Command", bound=Callable[..., Any])


def hparam_options(command: Command) -> Command:
    """Adds an option for each hyperparameter; one that isn't given comes as None."""
    for hparam in reversed(list(HPARAMS.values())):
        command = click.option(
            "--" + hparam.name.replace("_", "-"),
            hparam.name,
            type={"float": float, "int": int}.get(hparam.kind, str),
            metavar=_metavar(hparam),
            help=f"{hparam.help}  [default: {_text(hparam.default)}]",
        )(command)
    return command


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters that were given, lists of integers read from ``32,64``."""
    return {
        name: _integers(value) if HPARAMS[name].kind == "ints" else value
        for name, value in options.items()
        if value is not None
    }


def _integers(text: str) -> list[int] | str:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        return text


def _metavar(hparam: HParam) -> str:
    if hparam.kind == "choice":
        return "|".join(hparam.values)
    return {"float": "NUMBER", "int": "INTEGER", "ints": "N,N"}[hparam.kind]


def _text(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
