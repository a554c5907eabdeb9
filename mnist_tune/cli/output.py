"""The one way out: results to stdout, talk to stderr, errors without a traceback."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import click

from mnist_tune.errors import MnistTuneError

_VERBOSE = "mnist_tune.verbose"

Command = TypeVar("Command", bound=Callable[..., Any])


class Commands(click.Group):
    """A group that turns our errors, and the system's, into one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except MnistTuneError as error:
            _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            _fail("interrupted", 130)
        except BrokenPipeError:
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _fail(f"{where}{error.strerror or error}", 1)


def _fail(message: str, exit_code: int) -> None:
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.get(_VERBOSE):
        talk(traceback.format_exc())
    talk(f"Error: {message}")
    raise click.exceptions.Exit(exit_code)


def verbose_option(command: Command) -> Command:
    """Adds ``--verbose``: tracebacks, and what the libraries have to say."""

    def remember(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
        ctx.meta[_VERBOSE] = value
        return value

    return click.option(
        "--verbose",
        is_flag=True,
        callback=remember,
        expose_value=False,
        help="Show tracebacks and the libraries' own messages.",
    )(command)


def is_verbose() -> bool:
    """Whether the running command was given ``--verbose``."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_VERBOSE))


def json_option(command: Command) -> Command:
    """Adds ``--json``: the result as one JSON object on stdout, for programs."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print the result as one JSON object."
    )(command)


def result(text: str) -> None:
    """Prints a line of the result, on stdout."""
    click.echo(text)


def result_json(value: Any) -> None:
    """Prints a result for programs, on stdout; numbers at full precision."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def talk(text: str) -> None:
    """Prints a line that is not a result, on stderr."""
    click.echo(text, err=True)
