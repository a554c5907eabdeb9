"""A search in text, drawn from an experiment alone."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mnist_tune.display import describe
from mnist_tune.experiment import BEST, Experiment, resume_command
from mnist_tune.places import Place, join, shown
from mnist_tune.results import TrialResult
from mnist_tune.rungs import score


def summary_text(experiment: Experiment) -> str:
    """What came out of a search, in a few lines that end with the best configuration."""
    summary = experiment.summary()
    best, counts = summary["best"], summary["trials"]
    lines = [
        f"{counts['total']} trials: {counts['completed']} completed, "
        f"{counts['stopped_early']} stopped early, {counts['errored']} errored, "
        f"{counts['unfinished']} unfinished; {summary['epochs_trained']} epochs in "
        f"{summary['wall_s']:.0f} s",
        f"run directory: {summary['path']}",
    ]
    if summary["lanes"] > 1:
        lines.append(
            f"{summary['lanes']} lanes a slot; trained ahead and thrown away: "
            f"{summary['epochs_wasted']} epochs"
        )
    if counts["unfinished"]:
        lines.append(f"{experiment.state}; go on with: {resume_command(experiment.place)}")
    if best is None:
        return "\n".join([*lines, "no result yet"])
    validation, test = best["validation"], best["test"]
    lines += [
        "",
        f"best trial: {best['trial_id']}, epoch {validation['epoch']}",
        *(f"  {name}: {value}" for name, value in best["config"].items()),
        f"validation accuracy: {100 * validation['accuracy']:.2f} %, loss {validation['loss']:.4f}",
        f"test accuracy: {100 * test['accuracy']:.2f} %, loss {test['loss']:.4f}"
        if test
        else "test accuracy: not scored yet",
        "",
        f"train it again: mnist-tune train --config {shown(join(experiment.place, BEST))}",
    ]
    return "\n".join(lines)


def runs_text(runs: Sequence[Experiment], storage: Place) -> str:
    """The runs of a directory, one a line."""
    if not runs:
        return f"no runs in {storage}"
    rows = [
        (
            run.name,
            run.data["name"],
            run.state,
            str(summary["trials"]["total"] - summary["trials"]["unfinished"])
            + f"/{summary['trials']['total']}",
            _percent(summary["best"], "validation"),
            _percent(summary["best"], "test"),
        )
        for run, summary in ((run, run.summary()) for run in runs)
    ]
    return _table(("run", "data", "state", "trials", "validation %", "test %"), rows)


def show_text(experiment: Experiment) -> str:
    """A search with its trials, the best first."""
    metric = experiment.options.metric

    def rank(trial: TrialResult) -> tuple[float, int]:
        best = trial.best(metric)
        value = score(metric, best.accuracy, best.loss) if best else -math.inf
        return (-value, trial.number)

    rows = []
    for trial in sorted(experiment.results.trials, key=rank):
        best = trial.best(metric)
        rows.append(
            (
                trial.trial_id,
                trial.status,
                str(trial.epochs),
                f"{100 * best.accuracy:.2f}" if best else "-",
                f"{best.loss:.4f}" if best else "-",
                f"{trial.seconds:.1f}",
                describe(trial.config),
            )
        )
    header = ("trial", "status", "epochs", "validation %", "loss", "seconds", "config")
    return summary_text(experiment) + "\n\n" + _table(header, rows)


def _percent(best: Mapping[str, Any] | None, part: str) -> str:
    scores = best[part] if best else None
    return f"{100 * scores['accuracy']:.2f}" if scores else "-"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    text = io.StringIO()
    # Never folded: a line a row, for people and for grep.
    Console(file=text, width=1000, no_color=True).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")
