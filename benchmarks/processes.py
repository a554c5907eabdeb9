"""Running a contestant as a user does: in processes and a directory of its own, timed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.settings import ROOT

TIMEOUT_S = 1800.0
_STRAGGLERS_S = 30.0


class ContestantError(Exception):
    """A contestant's process failed, hung or left processes behind."""


@dataclass(frozen=True)
class Finished:
    """A process that ended well.

    Attributes:
        started: when it was started, in seconds since 1970.
        wall_s: from its start to its exit.
        output: what it wrote to stdout.
    """

    started: float
    wall_s: float
    output: str

    def answer(self) -> dict[str, Any]:
        """The JSON object on its last line."""
        answer: dict[str, Any] = json.loads(self.output.strip().splitlines()[-1])
        return answer


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """A directory with a name short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(
        prefix="mtb-", dir=_short_tmp(), ignore_cleanup_errors=True
    ) as name:
        yield Path(name)


def mnist_tune(*arguments: str) -> list[str]:
    """The command that a user types: the script beside this Python."""
    return [str(Path(sys.executable).with_name("mnist-tune")), *arguments]


def module(name: str, *arguments: str) -> list[str]:
    """The command for a module of this package."""
    return [sys.executable, "-m", f"benchmarks.{name}", *arguments]


def run(
    command: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None
) -> Finished:
    """Runs a command to its end, and waits until nothing of it is left.

    Args:
        command: the program and its arguments.
        directory: its TMPDIR; what it starts is recognised by it.
        environment: what differs from this process's environment.

    Raises:
        ContestantError: it failed, took longer than ``TIMEOUT_S`` or left processes behind.
    """
    log = directory / "stderr"
    environ = {**os.environ, "TMPDIR": str(directory), **(environment or {})}
    with log.open("wb") as stderr:
        started, start = time.time(), time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        wall_s = time.perf_counter() - start
    if process.returncode:
        said = log.read_text(errors="replace")[-3000:]
        raise ContestantError(f"{' '.join(command)}: status {process.returncode}\n{said}")
    _wait_for_stragglers(directory, command)
    return Finished(started, wall_s, output)


def _wait_for_stragglers(directory: Path, command: Sequence[str]) -> None:
    """Waits for what still runs: it would slow down the contestant that comes next."""
    end = time.monotonic() + _STRAGGLERS_S
    while left := _processes_naming(str(directory)):
        if time.monotonic() > end:
            raise ContestantError(f"{' '.join(command)}: still running: {left}")
        time.sleep(0.1)


def _processes_naming(text: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text.encode() in (entry / "cmdline").read_bytes() and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def _short_tmp() -> str | None:
    return None if len(tempfile.gettempdir()) <= 20 else "/tmp"
