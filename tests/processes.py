"""Starting a search as a user does, watching it, killing it, and seeing that nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """A directory with a name short enough for Ray's sockets, for TMPDIR."""
    path = Path(tempfile.mkdtemp(prefix="mt-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def start(temporary: Path, *args: str | Path) -> subprocess.Popen[str]:
    """Starts ``mnist-tune`` in the background; all that it starts names ``temporary``."""
    return subprocess.Popen(
        [sys.executable, "-m", "mnist_tune", *map(str, args)],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Waits for a condition to give something true and returns it."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {timeout_s} s")


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    """The whole lines of a ledger of one kind; none if there is no ledger yet."""
    path = run / "ledger.jsonl"
    content = path.read_bytes() if path.exists() else b""
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


def processes_naming(path: Path) -> list[str]:
    """The command lines of all processes that name a path."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(path) in line:
            found.append(f"{entry.name}: {line[:200]}")
    return found


def nothing_left(path: Path) -> None:
    """Waits until no process names a path."""
    wait_until(lambda: not processes_naming(path), 30, f"no process of {path} left")
