"""The command line: one short file per command; this one puts them together."""

from __future__ import annotations

import atexit
import gc

import click

from mnist_tune.cli import data, doctor, runs, search, space, train
from mnist_tune.cli.output import Commands


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mnist-tune")
def main() -> None:
    """Find the best learning rate and beta for a small CNN on MNIST, tonight."""
    # Looking through all that was imported for garbage takes half a second of the exit.
    atexit.register(gc.freeze)


for command in (
    search.search,
    search.resume,
    train.train,
    runs.evaluate,
    runs.runs,
    runs.show,
    runs.best,
    space.space,
    data.data,
    doctor.doctor,
):
    main.add_command(command)
