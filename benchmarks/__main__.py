"""``python -m benchmarks``: measures, prints tables, writes results/ and README.md."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from benchmarks import (
    driver,
    kernel,
    lanes,
    lanes_search,
    parallel,
    scaling,
    searches,
    start,
    turnover,
)
from benchmarks.machine import gpu
from benchmarks.processes import ContestantError
from benchmarks.record import record_of
from benchmarks.report import README, RESULTS, Table, insert, markdown, note, save
from benchmarks.rounds import talk
from benchmarks.settings import CORES, Settings, take_cores
from mnist_tune.data_dir import checked_data_dir
from mnist_tune.datasets import load_dataset
from mnist_tune.errors import MnistTuneError


class Benchmark(NamedTuple):
    """How to measure, and how to show what came out.

    Attributes:
        measure: takes the measurements.
        table: shows them.
        datasets: what it needs.
        on_gpu: it is taken on the GPU where there is one, with all cores; its results then have
            another name, and stay apart from those of CPUs.
    """

    measure: Callable[[Settings], dict[str, Any]]
    table: Callable[[dict[str, Any]], Table]
    datasets: Sequence[str]
    on_gpu: bool = False


BENCHMARKS = {
    "kernel": Benchmark(kernel.measure, kernel.table, ["mnist"]),
    "parallel": Benchmark(parallel.measure, parallel.table, ["mnist"]),
    "turnover": Benchmark(turnover.measure, turnover.table, ["digits"]),
    "start": Benchmark(start.measure, start.table, ["digits"]),
    "search-mnist": Benchmark(searches.measure_mnist, searches.table, ["mnist"]),
    "search-digits": Benchmark(searches.measure_digits, searches.table, ["digits"]),
    # These two choose their data set by the device.
    "lanes": Benchmark(lanes.measure, lanes.table, [], on_gpu=True),
    "lanes-search": Benchmark(lanes_search.measure, lanes_search.table, [], on_gpu=True),
    "driver": Benchmark(driver.measure, driver.table, ["digits"]),
    "scaling": Benchmark(scaling.measure, scaling.table, ["digits"]),
}


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--data-dir", help="Where the data is.  [default: TFDS's directory]")
@click.option("--rounds", type=click.IntRange(min=1), help="Of searches and drivers.  [default: 3]")
@click.option("--quick", is_flag=True, help="Tiny sizes, one round; prints, writes no file.")
@click.option(
    "--results",
    "results_dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the results file goes; README.md then stays as it is.  [default: results/]",
)
def main(
    names: tuple[str, ...],
    data_dir: str | None,
    rounds: int | None,
    quick: bool,
    results_dir: Path | None,
) -> None:
    """Measure mnist-tune against its peers, side by side.

    NAME is kernel, parallel, turnover, start, search-mnist, search-digits, lanes, lanes-search,
    driver or scaling; all if none is given. lanes and lanes-search are taken on the GPU if JAX
    finds one.
    """
    cores = sorted(os.sched_getaffinity(0))
    names = names or tuple(BENCHMARKS)
    found = gpu() if any(BENCHMARKS[name].on_gpu for name in names) else None
    for name in names:
        benchmark = BENCHMARKS[name]
        on = found if benchmark.on_gpu else None
        take_cores(cores if on else cores[:CORES])
        settings = Settings(
            str(checked_data_dir(data_dir)), quick, rounds or (1 if quick else 3), on
        )
        try:
            for dataset in benchmark.datasets:
                load_dataset(dataset, settings.data_dir)
            result = benchmark.measure(settings)
        except (ContestantError, MnistTuneError) as error:
            raise click.ClickException(str(error)) from None
        options = ["--rounds", str(rounds)] if rounds else []
        record = record_of(result, " ".join(["python -m benchmarks", name, *options]), on)
        shown = markdown(benchmark.table(result), note(record))
        click.echo(f"\n{name}\n\n{shown}\n")
        if not quick:
            suffix = "-gpu" if on else ""
            path = save({name: record}, results_dir or RESULTS, record["date"] + suffix)
            if results_dir is None:
                README.write_text(insert(README.read_text(), name + suffix, shown))
            talk(f"written: {path}")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
