"""``python -m benchmarks``: measures, prints tables, writes results/ and README.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import click

from benchmarks import driver, kernel, parallel, scaling, searches, start, turnover
from benchmarks.machine import machine, versions
from benchmarks.processes import ContestantError
from benchmarks.report import README, RESULTS, Table, insert, markdown, note, save
from benchmarks.rounds import talk
from benchmarks.settings import Settings, take_cores
from mnist_tune.data_dir import checked_data_dir
from mnist_tune.datasets import load_dataset
from mnist_tune.errors import MnistTuneError


class Benchmark(NamedTuple):
    """How to measure, and how to show what came out; ``datasets`` are what it needs."""

    measure: Callable[[Settings], dict[str, Any]]
    table: Callable[[dict[str, Any]], Table]
    datasets: Sequence[str]


BENCHMARKS = {
    "kernel": Benchmark(kernel.measure, kernel.table, ["mnist"]),
    "parallel": Benchmark(parallel.measure, parallel.table, ["mnist"]),
    "turnover": Benchmark(turnover.measure, turnover.table, ["digits"]),
    "start": Benchmark(start.measure, start.table, ["digits"]),
    "search-mnist": Benchmark(searches.measure_mnist, searches.table, ["mnist"]),
    "search-digits": Benchmark(searches.measure_digits, searches.table, ["digits"]),
    "driver": Benchmark(driver.measure, driver.table, ["digits"]),
    "scaling": Benchmark(scaling.measure, scaling.table, ["digits"]),
}


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--data-dir", help="Where the data is.  [default: TFDS's directory]")
@click.option("--rounds", type=click.IntRange(min=1), help="Of searches and drivers.  [default: 3]")
@click.option("--quick", is_flag=True, help="Tiny sizes, one round; prints, writes no file.")
def main(names: tuple[str, ...], data_dir: str | None, rounds: int | None, quick: bool) -> None:
    """Measure mnist-tune against its peers, side by side.

    NAME is kernel, parallel, turnover, start, search-mnist, search-digits, driver or scaling; all
    if none is given.
    """
    take_cores()
    settings = Settings(str(checked_data_dir(data_dir)), quick, rounds or (1 if quick else 3))
    for name in names or BENCHMARKS:
        benchmark = BENCHMARKS[name]
        try:
            for dataset in benchmark.datasets:
                load_dataset(dataset, settings.data_dir)
            result = benchmark.measure(settings)
        except (ContestantError, MnistTuneError) as error:
            raise click.ClickException(str(error)) from None
        record = _record(result, [name, *(["--rounds", str(rounds)] if rounds else [])])
        shown = markdown(benchmark.table(result), note(record))
        click.echo(f"\n{name}\n\n{shown}\n")
        if not quick:
            path = save({name: record}, RESULTS, record["date"])
            README.write_text(insert(README.read_text(), name, shown))
            talk(f"written: {path}")


def _record(result: dict[str, Any], options: list[str]) -> dict[str, Any]:
    return {
        "date": f"{datetime.now():%Y-%m-%d}",
        # Without the data's directory, which is of this machine only.
        "command": " ".join(["python -m benchmarks", *options]),
        "machine": machine(),
        "versions": versions(),
        # As it will be read back: tuples have become lists.
        "result": json.loads(json.dumps(result)),
    }


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
