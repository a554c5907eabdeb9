"""``mnist-tune runs``, ``show``, ``best`` and ``evaluate``: look at results."""

from __future__ import annotations

from pathlib import Path

import click

from mnist_tune.cli.output import json_option, result, result_json, talk, verbose_option
from mnist_tune.cli.search import STORAGE_HELP


@click.command()
@click.option("--storage-path", help=STORAGE_HELP)
@json_option
@verbose_option
def runs(storage_path: str | None, as_json: bool) -> None:
    """List the searches, the newest last."""
    from mnist_tune import experiment as exp
    from mnist_tune import runs as where
    from mnist_tune.errors import MnistTuneError
    from mnist_tune.report import runs_text

    storage = where.storage_path(storage_path)
    places = where.list_runs(storage)
    found = []
    for place in places:
        try:
            found.append(exp.open_experiment(place))
        except MnistTuneError as error:
            talk(f"left out: {error}")
    if as_json:
        result_json([{**run.summary(), "state": run.state} for run in found])
    else:
        result(runs_text(found, storage))


@click.command()
@click.argument("run")
@click.option("--storage-path", help=STORAGE_HELP)
@json_option
@verbose_option
def show(run: str, storage_path: str | None, as_json: bool) -> None:
    """Show a search: its trials, the best first.

    RUN is a run directory, its URI, or the name of one in --storage-path.
    """
    from mnist_tune import experiment as exp
    from mnist_tune import runs as where
    from mnist_tune.report import show_text
    from mnist_tune.results import table

    found = exp.open_experiment(where.find_run(run, where.storage_path(storage_path)))
    if as_json:
        result_json({**found.summary(), "state": found.state, "rows": table(found.results)})
    else:
        result(show_text(found))


@click.command()
@click.argument("run")
@click.option("--storage-path", help=STORAGE_HELP)
@json_option
@verbose_option
def best(run: str, storage_path: str | None, as_json: bool) -> None:
    """Print a search's best configuration, as in its best.yaml.

    RUN is a run directory, its URI, or the name of one in --storage-path.
    """
    from mnist_tune import experiment as exp
    from mnist_tune import runs as where
    from mnist_tune.errors import RunError
    from mnist_tune.yamls import dump_yaml

    found = exp.open_experiment(where.find_run(run, where.storage_path(storage_path)))
    record = found.best_record()
    if record is None:
        raise RunError(
            f"{found.place}: no trial has finished yet; go on with: "
            f"{exp.resume_command(found.place)}"
        )
    if as_json:
        result_json(record)
    else:
        result(dump_yaml(record).decode().rstrip())


@click.command()
@click.argument("model", metavar="RUN|CHECKPOINT")
@click.option("--dataset", help="Test on another data set.  [default: the model's]")
@click.option("--data-dir", help="Where the data is.  [default: TFDS's directory]")
@click.option("--storage-path", help=STORAGE_HELP)
@json_option
@verbose_option
def evaluate(
    model: str,
    dataset: str | None,
    data_dir: str | None,
    storage_path: str | None,
    as_json: bool,
) -> None:
    """Score a kept model on the test set: a search's best, or what train kept.

    RUN is a run directory, its URI or a run's name; CHECKPOINT is what train --checkpoint-dir was
    given, or a checkpoint file.
    """
    from mnist_tune import experiment as exp
    from mnist_tune import runs as where
    from mnist_tune.places import Place, join
    from mnist_tune.training_run import CHECKPOINT, evaluate_checkpoint

    place: Place = Path(model)
    if (Path(model) / CHECKPOINT).is_file():
        place = Path(model) / CHECKPOINT
    elif not Path(model).is_file():
        run = where.find_run(model, where.storage_path(storage_path))
        place = join(run, exp.BEST_CHECKPOINT)
    outcome = evaluate_checkpoint(place, dataset, data_dir)
    if as_json:
        result_json(outcome)
    else:
        test = outcome["test"]
        result(
            f"{outcome['dataset']} test loss: {test['loss']:.4f}, "
            f"accuracy: {100 * test['accuracy']:.2f}"
        )
