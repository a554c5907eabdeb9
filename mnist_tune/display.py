"""What a person sees of a running search, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, TextIO

from mnist_tune.experiment import Experiment
from mnist_tune.hparams import HPARAMS, Config
from mnist_tune.ledger import Event
from mnist_tune.results import Results, TrialResult

if TYPE_CHECKING:
    from rich.console import RenderableType


class Progress(NamedTuple):
    """What a running search tells a person by.

    Attributes:
        show: takes every event.
        say: takes a line of text.
    """

    show: Callable[[Experiment, Event], None]
    say: Callable[[str], None]


@contextmanager
def progress(stream: TextIO | None = sys.stderr) -> Iterator[Progress]:
    """Shows a search: live on a terminal, elsewhere a line for each trial that ends or pauses."""
    if stream is None:
        # stderr is closed.
        yield Progress(lambda _experiment, _event: None, lambda _line: None)
        return
    if not stream.isatty():
        yield Progress(
            lambda experiment, event: _print_line(experiment, event, stream),
            lambda line: print(line, file=stream, flush=True),
        )
        return
    from rich.console import Console
    from rich.live import Live
    from rich.spinner import Spinner

    start = time.monotonic()
    to_do = 0
    seen: Results | None = None
    spinner = Spinner("dots", "checking the data, starting Ray and its workers")
    # Errors and paths are shown as they are, whatever brackets are in them.
    console = Console(file=stream, markup=False, emoji=False, highlight=False)

    def view() -> RenderableType:
        return spinner if seen is None else _panel(seen, time.monotonic() - start, to_do)

    with Live(get_renderable=view, console=console, refresh_per_second=4) as live:

        def show(experiment: Experiment, event: Event) -> None:
            nonlocal seen, to_do
            results = seen = experiment.results
            if event["event"] == "session":
                to_do = results.to_run
                live.console.print(f"run directory: {experiment.place}")
            if _is_end(event):
                live.console.print(ended_line(results, results.trials[event["trial"]]))

        yield Progress(show, live.console.print)


def ended_line(results: Results, trial: TrialResult) -> str:
    """A trial that ended or is paused, in a line."""
    best = trial.best(results.metric)
    score = (
        f"best accuracy {100 * best.accuracy:.2f} %, loss {best.loss:.4f} at epoch {best.epoch}"
        if best
        else "no finite result"
    )
    if best and trial.reason and trial.epochs != best.epoch:
        # What the reason ranks.
        last = trial.reports[-1]
        score += f"; then {100 * last.accuracy:.2f} %, loss {last.loss:.4f}"
    reason = f"  ({trial.reason})" if trial.reason else ""
    return (
        f"trial {trial.trial_id} {trial.status} after epoch {trial.epochs}: {score}  "
        f"{describe(trial.config)}{reason}"
    )


def describe(config: Config) -> str:
    """What of a configuration isn't the default, in a line."""
    parts = []
    for name, value in config.items():
        default = HPARAMS[name].default
        if value == (list(default) if isinstance(default, tuple) else default):
            continue
        parts.append(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}")
    return " ".join(parts) or "defaults"


def time_left_s(elapsed_s: float, ended: int, unfinished: int) -> float | None:
    """Seconds until the end if the trials to come take as long as those that ended."""
    return elapsed_s * unfinished / ended if ended > 0 else None


def _is_end(event: Event) -> bool:
    return event.get("decision") in {"pause", "stop"} or event["event"] == "error"


def _print_line(experiment: Experiment, event: Event, stream: TextIO) -> None:
    if event["event"] == "session":
        print(f"run directory: {experiment.place}", file=stream, flush=True)
    if _is_end(event):
        results = experiment.results
        total = len(results.trials)
        line = ended_line(results, results.trials[event["trial"]])
        print(f"[{total - results.to_run}/{total}] {line}", file=stream, flush=True)


def _panel(results: Results, elapsed_s: float, to_do_at_start: int) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    total, to_run = len(results.trials), results.to_run
    left_s = time_left_s(elapsed_s, to_do_at_start - to_run, to_run)
    left = f"about {_clock(left_s)} left" if left_s else "…"
    if not to_run:
        left = "testing the winner"
    bar = Table.grid(padding=(0, 1), expand=False)
    bar.add_row(
        ProgressBar(total, total - to_run, width=30),
        f"{total - to_run}/{total} trials",
        f"{min(results.slots, to_run)} running",
        f"{_clock(elapsed_s)} gone, {left}",
    )
    if results.best is None:
        best = "no result yet"
    else:
        trial, report = results.best
        best = (
            f"best so far: accuracy {100 * report.accuracy:.2f} %, loss {report.loss:.4f} "
            f"(trial {trial.trial_id}, epoch {report.epoch}): {describe(trial.config)}"
        )
    return Group(bar, Text(best))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
