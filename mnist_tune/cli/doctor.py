"""``mnist-tune doctor``: what is here, and what is wrong with it."""

from __future__ import annotations

import click

from mnist_tune.cli.output import is_verbose, json_option, result, result_json, verbose_option
from mnist_tune.cli.search import STORAGE_HELP


@click.command()
@click.option("--data-dir", help="Where the data is.  [default: TFDS's directory]")
@click.option("--storage-path", help=STORAGE_HELP)
@json_option
@verbose_option
def doctor(data_dir: str | None, storage_path: str | None, as_json: bool) -> None:
    """Check devices, Ray, data, versions, and say what is wrong.

    Exits with 1 if something keeps a search from running.
    """
    from mnist_tune.diagnosis import diagnose

    findings = diagnose(data_dir, storage_path, is_verbose())
    if as_json:
        result_json({name: {"ok": ok, "detail": detail} for name, ok, detail in findings})
    else:
        for name, ok, detail in findings:
            result(f"{'ok   ' if ok else 'WRONG'}  {name:<20} {detail}")
    if not all(finding.ok for finding in findings):
        raise click.exceptions.Exit(1)
