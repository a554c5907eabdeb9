"""Two searches, in lanes and without, that must find as good a winner; and the winner's replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import click

from benchmarks.machine import gpu
from benchmarks.processes import ContestantError, mnist_tune, run, temporary_directory
from benchmarks.record import record_of
from benchmarks.report import save
from benchmarks.searches import summary_of
from benchmarks.settings import SPACE


class Sizes(NamedTuple):
    """How large the searches are.

    Attributes:
        dataset: which is searched.
        trials: of a search.
        epochs: of a trial that isn't stopped.
        lanes: of the search that has them.
        as_good: by how much the winners' validation accuracies may differ. In lanes other trials
            are stopped early, and of all that could win not always the same one does.
        repeated: by how much the replay's may differ from the search's.
    """

    dataset: str
    trials: int
    epochs: int
    lanes: str
    as_good: float
    repeated: float


REAL = Sizes("mnist", 32, 10, "auto", 0.003, 0.002)
REHEARSAL = Sizes("digits", 4, 2, "2", 0.05, 0.02)


def measure(sizes: Sizes, data_dir: str) -> dict[str, Any]:
    """Runs the searches, and trains the winner of the one in lanes again."""
    with temporary_directory() as directory:
        searches = {
            lanes: _search(sizes, data_dir, directory, lanes) for lanes in (sizes.lanes, "1")
        }
        best = directory / f"lanes-{sizes.lanes}" / "best.yaml"
        replay = _command(
            directory, "train", "--config", str(best), "--data-dir", data_dir, "--json"
        )
    return {"sizes": sizes._asdict(), "searches": searches, "replay": replay}


def problems(result: dict[str, Any]) -> list[str]:
    """What isn't as it must be; nothing, if all is well."""
    sizes = Sizes(**result["sizes"])
    winners = {name: _winners(summary) for name, summary in result["searches"].items()}
    found = []
    if abs(winners[sizes.lanes] - winners["1"]) > sizes.as_good:
        found.append(f"the winners differ by more than {sizes.as_good}: {winners}")
    repeated = result["replay"]["validation"]["accuracy"]
    if abs(repeated - winners[sizes.lanes]) > sizes.repeated:
        found.append(f"the winner had {winners[sizes.lanes]}, its replay has {repeated}")
    for name, summary in result["searches"].items():
        trials = summary["trials"]
        if trials["errored"] or trials["unfinished"]:
            found.append(f"--lanes {name}: not all trials came to their end: {trials}")
    return found


def _winners(summary: dict[str, Any]) -> float:
    return float(summary["best"]["validation"]["accuracy"])


def _search(sizes: Sizes, data_dir: str, directory: Path, lanes: str) -> dict[str, Any]:
    summary = _command(
        directory,
        *("search", "--space", str(SPACE), "--dataset", sizes.dataset, "--lanes", lanes),
        *("--num-samples", str(sizes.trials), "--max-epochs", str(sizes.epochs), "--json"),
        *("--data-dir", data_dir, "--storage-path", str(directory), "--name", f"lanes-{lanes}"),
    )
    # The directory is of this machine, and gone.
    return {name: value for name, value in summary.items() if name != "path"}


def _command(directory: Path, *arguments: str) -> dict[str, Any]:
    command = run(mnist_tune(*arguments), directory)
    return {**summary_of(command), "command_s": command.wall_s}


@click.command()
@click.option("--data-dir", required=True, help="Where the data is.")
@click.option("--results", "results_dir", required=True, type=click.Path(path_type=Path))
@click.option("--rehearse", is_flag=True, help="A small one on a CPU.")
def main(data_dir: str, results_dir: Path, rehearse: bool) -> None:
    """Run the searches, write what came out, and fail if something isn't as it must be."""
    try:
        result = measure(REHEARSAL if rehearse else REAL, data_dir)
    except ContestantError as error:
        raise click.ClickException(str(error)) from None
    found = problems(result)
    record = record_of({**result, "problems": found}, "benchmarks/gpu_check.sh", gpu())
    suffix = "-rehearsal" if rehearse else "-gpu"
    save({"searches-check": record}, results_dir, record["date"] + suffix)
    for name, summary in result["searches"].items():
        click.echo(
            f"--lanes {name}: {summary['lanes']} lanes, {summary['command_s']:.1f} s, "
            f"best validation accuracy {100 * _winners(summary):.2f} %"
        )
    repeated = "to the last digit" if result["replay"]["repeated"] else "not to the last digit"
    accuracy = result["replay"]["validation"]["accuracy"]
    click.echo(f"its replay: {100 * accuracy:.2f} %, {repeated}")
    if found:
        raise click.ClickException("\n".join(found))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.gpu_searches")
