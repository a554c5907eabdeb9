"""The ledger: every event of a search, one JSON object a line, appended and never changed.

It is what a search *is*: the trials' table, the best configuration and the state of the
scheduler all follow from reading it from the top. A line is in the file before the scheduler
acts on the next report. A crash can cut the last line short; such a line never happened.

Events, told apart by ``event``:

    trial    trial, config                                       drawn, before anything starts
    report   trial, epoch, accuracy, loss, epoch_s, decision, reason
    error    trial, message                                      gave up after all retries
    session  resumed                                             a driver begins
    end      reason, wall_s                                      a driver is through

A number that is not finite is written as null.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mnist_tune.errors import RunError

Event = dict[str, Any]


def append(path: Path, events: Iterable[Mapping[str, Any]]) -> None:
    """Appends events in one write and waits until they are on the disk."""
    lines = "".join(json.dumps(_finite(event), allow_nan=False) + "\n" for event in events)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        _write_all(handle, lines.encode())
        os.fdatasync(handle)
    finally:
        os.close(handle)


def read(path: Path) -> list[Event]:
    """Reads all whole lines.

    Raises:
        RunError: the file is missing, or a line other than the last is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None
    whole = content[: content.rfind(b"\n") + 1]
    return [_parse(line, f"{path}:{i}") for i, line in enumerate(whole.splitlines(), 1)]


def drop_torn_line(path: Path) -> None:
    """Cuts off a last line that a crash left without its end, so that appending is safe."""
    content = path.read_bytes()
    whole_bytes = content.rfind(b"\n") + 1
    if whole_bytes < len(content):
        os.truncate(path, whole_bytes)


def _parse(line: bytes, where: str) -> Event:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise RunError(f"{where}: the ledger is damaged here ({error})") from None
    if not isinstance(event, dict) or "event" not in event:
        raise RunError(f"{where}: the ledger is damaged here: not an event")
    return event


def _write_all(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]


def _finite(event: Mapping[str, Any]) -> Event:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in event.items()
    }
