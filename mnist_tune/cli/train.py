"""``mnist-tune train``: the original program, and the replay of a search's winner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mnist_tune.cli.hparam_options import given, hparam_options
from mnist_tune.cli.output import json_option, result, result_json, talk, verbose_option
from mnist_tune.errors import ConfigError

if TYPE_CHECKING:
    from mnist_tune.training_run import Epoch, TrainResult


@click.command()
@hparam_options
@click.option("--epochs", type=int, help="Passes over the training set.  [default: 10]")
@click.option("--dataset", help="mnist, fashion_mnist, kmnist or digits.  [default: mnist]")
@click.option("--data-dir", help="Where the data is.  [default: TFDS's directory]")
@click.option("--config", "best", metavar="FILE", help="Replay a search: RUN/best.yaml.")
@click.option("--checkpoint-dir", metavar="DIR", help="Keep the model in this directory.")
@json_option
@verbose_option
def train(
    epochs: int | None,
    dataset: str | None,
    data_dir: str | None,
    best: str | None,
    checkpoint_dir: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Train one model: on all training images, tested after each epoch.

    With --config, train a search's winner again exactly as it was: the same split and seed, as many
    epochs as its best took; the scores after each epoch are then those on the validation set.
    """
    hparams = given(options)
    if best is not None:
        asked = [
            *hparams,
            *(["epochs"] if epochs is not None else []),
            *(["dataset"] if dataset is not None else []),
        ]
        if asked:
            flags = ", ".join("--" + name.replace("_", "-") for name in asked)
            raise ConfigError(f"--config replays a run as it was: it can't be given with {flags}")
    show = None if as_json else _show
    from mnist_tune import training_run

    if best is None:
        outcome = training_run.train(
            hparams,
            dataset=dataset or "mnist",
            epochs=10 if epochs is None else epochs,
            data_dir=data_dir,
            checkpoint_dir=checkpoint_dir,
            show=show,
        )
    else:
        outcome = training_run.replay(
            best, data_dir=data_dir, checkpoint_dir=checkpoint_dir, show=show
        )
    if checkpoint_dir is not None:
        talk(f"the model is kept; score it with: mnist-tune evaluate {checkpoint_dir}")
    if best is None:
        if as_json:
            result_json(outcome.record())
        return
    repeated = _compare(best, outcome)
    if as_json:
        result_json({**outcome.record(), "repeated": repeated})
    else:
        test = outcome.test
        result(f"test loss: {test['loss']:.4f}, accuracy: {100 * test['accuracy']:.2f}")


def _show(epoch: Epoch) -> None:
    result(
        f"eval epoch: {epoch.epoch}, loss: {epoch.loss:.4f}, accuracy: {100 * epoch.accuracy:.2f}"
    )


def _compare(best: str, outcome: TrainResult) -> bool:
    from mnist_tune import devices
    from mnist_tune.training_run import read_best

    wanted = read_best(best)
    for difference in wanted.differences(devices.current().record(), devices.versions()):
        talk(f"not as in the search: {difference}")
    repeated = outcome.validation is not None and wanted.matches(outcome.validation)
    if repeated:
        talk("the validation scores are those of the search, to the last digit")
    else:
        then = wanted.validation
        talk(
            f"the search had validation loss {then['loss']!r} and accuracy {then['accuracy']!r}: "
            "not repeated to the last digit"
        )
    return repeated
