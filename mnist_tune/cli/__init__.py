"""The command line: one short file per command; this one puts them together."""

from __future__ import annotations

import click

from mnist_tune.cli import data, space
from mnist_tune.cli.output import Commands


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mnist-tune")
def main() -> None:
    """Find the best learning rate and beta for a small CNN on MNIST, tonight."""


main.add_command(space.space)
main.add_command(data.data)
