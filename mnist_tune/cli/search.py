"""``mnist-tune search`` and ``mnist-tune resume``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import click

from mnist_tune.cli.output import is_verbose, json_option, result, result_json, verbose_option

if TYPE_CHECKING:
    from mnist_tune.experiment import Experiment

STORAGE_HELP = (
    "The directory for runs, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX.  "
    "[default: MNIST_TUNE_STORAGE, else ~/mnist-tune-runs]"
)


@click.command()
@click.option("--space", required=True, metavar="FILE", help="The search space.")
@click.option("--dataset", help="mnist, fashion_mnist, kmnist or digits.  [default: mnist]")
@click.option("--num-samples", type=int, help="Configurations to draw.  [default: 16]")
@click.option("--max-epochs", type=int, help="Epochs of a trial not stopped.  [default: 10]")
@click.option("--scheduler", help="asha stops poor trials early; fifo doesn't.  [default: asha]")
@click.option(
    "--asha-type",
    help="stopping ends trials at a rung, promotion pauses them.  [default: stopping]",
)
@click.option("--grace-period", type=int, help="Epochs before the first stop.  [default: 1]")
@click.option("--reduction-factor", type=int, help="One in this many goes on.  [default: 3]")
@click.option("--searcher", help="random or grid.  [default: random]")
@click.option("--metric", help="accuracy or loss, on the validation set.  [default: accuracy]")
@click.option("--seed", type=int, help="Of the draws and of the training.  [default: 0]")
@click.option("--cpus-per-trial", type=float, help="CPU cores a trial.  [default: 1]")
@click.option("--gpus-per-trial", type=float, help="GPUs a trial.  [default: 1 if there are any]")
@click.option("--max-concurrent", type=int, help="Trials at a time.  [default: all that fit]")
@click.option(
    "--lanes",
    metavar="auto|N",
    callback=lambda _context, _parameter, text: _number_or_text(text),
    help="Trials that share a slot; auto: as many as pay, 1 on a CPU.  [default: auto]",
)
@click.option("--max-failures", type=int, help="Restarts of a trial that dies.  [default: 2]")
@click.option("--time-budget", "time_budget_s", type=float, help="Seconds after which to end.")
@click.option(
    "--validation-size", type=int, help="Images to select by.  [default: 5000; digits: 287]"
)
@click.option("--train-size", type=int, help="Images to train on.  [default: all others]")
@click.option("--data-dir", help="Where the data is.  [default: TFDS's directory]")
@click.option("--storage-path", help=STORAGE_HELP)
@click.option("--name", help="The run's name.  [default: from the space and the time]")
@click.option(
    "--address",
    help="A Ray cluster: auto on its head, ray://HOST:10001 elsewhere.  [default: this machine]",
)
@click.option("--dry-run", is_flag=True, help="Print what would be done, and start nothing.")
@json_option
@verbose_option
def search(
    space: str,
    storage_path: str | None,
    name: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Search for the best configuration: many trials, poor ones stopped early.

    The best one is kept in the run directory's best.yaml, from which anyone can train it again:
    mnist-tune train --config RUN/best.yaml
    """
    asked = {key: value for key, value in options.items() if value is not None}
    if dry_run:
        from mnist_tune.plan import describe_plan, plan

        outline = plan(space, name=name, storage=storage_path, **asked)
        if as_json:
            result_json(outline)
        else:
            result(describe_plan(outline))
        return
    from mnist_tune.display import progress
    from mnist_tune.searching import search as run_search

    with progress() as (show, say), _stdout_kept():
        experiment = run_search(
            space,
            name=name,
            storage=storage_path,
            verbose=is_verbose(),
            show=show,
            say=say,
            **asked,
        )
    _print(experiment, as_json)


@click.command()
@click.argument("run")
@click.option("--storage-path", help=STORAGE_HELP)
@click.option("--address", help="A Ray cluster.  [default: as before, if that was this machine]")
@json_option
@verbose_option
def resume(run: str, storage_path: str | None, address: str | None, as_json: bool) -> None:
    """Go on with a search after Ctrl-C or a crash.

    RUN is a run directory, its URI, or the name of one in --storage-path.
    """
    from mnist_tune.display import progress
    from mnist_tune.searching import resume as run_resume

    with progress() as (show, say), _stdout_kept():
        experiment = run_resume(
            run, storage=storage_path, address=address, verbose=is_verbose(), show=show, say=say
        )
    _print(experiment, as_json)


def _number_or_text(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else text


@contextmanager
def _stdout_kept() -> Iterator[None]:
    """Keeps stdout for the result: Ray prints there when a worker dies."""
    with (
        open(os.devnull, "w") as nowhere,
        redirect_stdout(sys.stderr if is_verbose() and sys.stderr else nowhere),
    ):
        yield


def _print(experiment: Experiment, as_json: bool) -> None:
    from mnist_tune.report import summary_text

    if as_json:
        result_json(experiment.summary())
    else:
        result(summary_text(experiment))
