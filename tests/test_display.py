"""What a person sees: lines where there is no terminal, a live view on a real one."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from examples import drawn, end, error, new_run, paused, promote, report, session

from mnist_tune.display import describe, ended_line, progress, time_left_s
from mnist_tune.hparams import complete
from mnist_tune.results import fold


def test_elsewhere_than_on_a_terminal_a_line_for_each_trial_that_ends(tmp_path: Path) -> None:
    stream = io.StringIO()
    experiment = new_run(tmp_path / "run", 3)
    with progress(stream) as (show, _):
        for event in (
            session(),
            report(1, 1, 0.9876, 0.12345),
            report(0, 1, 0.5, 1.5, stop="rung 1: rank 2 of 2, best 1 go on"),
            report(1, 2, 0.9, 0.2, stop="all epochs"),
            error(2, "OSError: [/tmp/x] is [bold]full[/bold] :boom:"),
            end(),
        ):
            experiment.record(event)
            show(experiment, event)
    assert stream.getvalue().splitlines() == [
        f"run directory: {tmp_path / 'run'}",
        "[1/3] trial 00000 stopped after epoch 1: best accuracy 50.00 %, loss 1.5000 at epoch 1"
        "  learning_rate=0.01  (rung 1: rank 2 of 2, best 1 go on)",
        "[2/3] trial 00001 completed after epoch 2: best accuracy 98.76 %, loss 0.1235 at epoch 1"
        "  learning_rate=0.02",
        "[3/3] trial 00002 errored after epoch 0: no finite result  learning_rate=0.03"
        "  (OSError: [/tmp/x] is [bold]full[/bold] :boom:)",
    ]


def test_a_line_for_each_trial_that_pauses(tmp_path: Path) -> None:
    stream = io.StringIO()
    experiment = new_run(tmp_path / "run", 3, asha_type="promotion")
    with progress(stream) as (show, _):
        for event in (
            session(),
            paused(0, 1, 0.5, 1.5),
            paused(1, 1, 0.75, 1.25),
            promote(1, 1),
            report(1, 2, 0.9, 0.2, stop="all epochs"),
        ):
            experiment.record(event)
            show(experiment, event)
    assert stream.getvalue().splitlines()[1:] == [
        "[1/3] trial 00000 paused after epoch 1: best accuracy 50.00 %, loss 1.5000 at epoch 1"
        "  learning_rate=0.01  (rung 1: rank 1 of 1, best 0 go on)",
        "[2/3] trial 00001 paused after epoch 1: best accuracy 75.00 %, loss 1.2500 at epoch 1"
        "  learning_rate=0.02  (rung 1: rank 1 of 1, best 0 go on)",
        "[2/3] trial 00001 completed after epoch 2: best accuracy 90.00 %, loss 0.2000 at epoch 2"
        "  learning_rate=0.02",
    ]


# As a search does: stderr is the terminal. It goes on long enough to be drawn a few times.
LIVE = """
import sys, time
from pathlib import Path
from examples import end, error, new_run, report, session
from mnist_tune.display import progress

with progress() as (show, _):
    time.sleep(0.4)
    experiment = new_run(Path(sys.argv[1]), 3)
    for event in (
        session(),
        report(1, 1, 0.9876, 0.12345),
        report(0, 1, 0.5, 1.5, stop="rung 1: rank 2 of 2, best 1 go on"),
        error(2, "OSError: [/tmp/x] is [bold]full[/bold] :boom:"),
        report(1, 2, 0.9, 0.2, stop="all epochs"),
        end(),
    ):
        experiment.record(event)
        show(experiment, event)
        time.sleep(0.3)
"""


def on_a_terminal(columns: int, run: Path, term: str) -> tuple[int, str]:
    """Runs ``LIVE`` on a pseudo-terminal; returns its exit status and all that it wrote."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "NO_COLOR", "LINES"}}
    process = subprocess.Popen(
        [sys.executable, "-c", LIVE, str(run)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": term, "PYTHONPATH": str(Path(__file__).parent)},
    )
    os.close(theirs)
    written = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        written += piece
    os.close(ours)
    return process.wait(10), written.decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("columns", "term"), [(120, "xterm-256color"), (40, "xterm"), (8, "xterm"), (80, "dumb")]
)
def test_the_live_view(columns: int, term: str, tmp_path: Path) -> None:
    status, written = on_a_terminal(columns, tmp_path / "run", term)
    assert status == 0, written
    assert "Traceback" not in written
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)
    lines = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")]
    assert all(len(line) <= columns for line in lines)
    # Words are broken at the end of a line: compare without the breaks.
    seen = re.sub(r"\s", "", text)
    for expected in (
        f"run directory: {tmp_path / 'run'}",
        "trial 00000 stopped after epoch 1: best accuracy 50.00 %, loss 1.5000 at epoch 1",
        "trial 00001 completed after epoch 2: best accuracy 98.76 %",
        "(OSError: [/tmp/x] is [bold]full[/bold] :boom:)",
        "best so far: accuracy 98.76 %, loss 0.1235 (trial 00001, epoch 1)",
    ):
        assert re.sub(r"\s", "", expected) in seen, expected
    if columns == 120:
        for expected in (
            "checking the data",
            "0/3 trials",
            "3/3 trials",
            "2 running",
            "0 running",
            "gone, about",
            "testing the winner",
        ):
            assert expected in text, expected


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "defaults"),
        ({"learning_rate": 0.123456789}, "learning_rate=0.1235"),
        ({"learning_rate": 1e-5, "beta": 0.9}, "learning_rate=1e-05"),
        ({"features": [32, 64]}, "defaults"),
        ({"features": [8, 16], "batch_size": 64}, "batch_size=64 features=[8, 16]"),
        ({"schedule": "cosine", "warmup_epochs": 2}, "schedule=cosine warmup_epochs=2"),
    ],
)
def test_a_config_is_what_differs_from_the_defaults(changes: dict[str, object], said: str) -> None:
    assert describe(complete(changes)) == said


def test_a_trial_that_ended() -> None:
    results = fold("loss", [drawn(0, beta=0.5), report(0, 1, 0.9, 0.5), report(0, 2, 0.95, 0.6)])
    line = ended_line(results, results.trials[0])
    assert line == (
        "trial 00000 unfinished after epoch 2: best accuracy 90.00 %, loss 0.5000 at epoch 1"
        "  beta=0.5"
    )


@pytest.mark.parametrize(
    ("elapsed_s", "ended", "unfinished", "left_s"),
    [(60.0, 0, 5, None), (60.0, -1, 1, None), (60.0, 2, 4, 120.0), (60.0, 5, 0, 0.0)],
)
def test_time_left(elapsed_s: float, ended: int, unfinished: int, left_s: float | None) -> None:
    assert time_left_s(elapsed_s, ended, unfinished) == left_s
