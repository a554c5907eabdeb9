"""``mnist-tune doctor``: what is here, and what is wrong with it."""

from __future__ import annotations

import click

from mnist_tune.cli.output import is_verbose, json_option, result, result_json, talk, verbose_option
from mnist_tune.cli.search import STORAGE_HELP


@click.command()
@click.option("--data-dir", help="Where the data is.  [default: TFDS's directory]")
@click.option("--storage-path", help=STORAGE_HELP)
@click.option("--address", help="Look at a Ray cluster's nodes; 'auto' on its head.")
@json_option
@verbose_option
def doctor(
    data_dir: str | None, storage_path: str | None, address: str | None, as_json: bool
) -> None:
    """Check devices, Ray, data, versions, and say what is wrong.

    With --address: what each node of a Ray cluster has, and whether it shares the storage.
    Exits with 1 if something keeps a search from running.
    """
    from mnist_tune.diagnosis import diagnose

    if address is not None:
        _cluster(address, storage_path, as_json)
        return
    findings = diagnose(data_dir, storage_path, is_verbose())
    if as_json:
        result_json({name: {"ok": ok, "detail": detail} for name, ok, detail in findings})
    else:
        for name, ok, detail in findings:
            result(f"{'ok   ' if ok else 'WRONG'}  {name:<20} {detail}")
    if not all(finding.ok for finding in findings):
        raise click.exceptions.Exit(1)


def _cluster(address: str, storage_path: str | None, as_json: bool) -> None:
    from mnist_tune.diagnosis import diagnose_cluster
    from mnist_tune.preflight import advice, table

    reports = diagnose_cluster(address, storage_path, is_verbose())
    if as_json:
        result_json([{**vars(report.node), **report.findings()} for report in reports])
    else:
        result(table(reports))
    if not all(report.ok for report in reports):
        talk(advice(reports))
        raise click.exceptions.Exit(1)
