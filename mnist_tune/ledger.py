"""The ledger: every event of a search, one JSON object a line, appended and never changed.

It is what a search *is*: the trials' table, the best configuration and the state of the
scheduler all follow from reading it from the top. A line is in the file before the scheduler
acts on the next report. A crash can cut the last line short; such a line never happened.

Events, told apart by ``event``:

    trial    trial, config                                       drawn, before anything starts
    report   trial, epoch, accuracy, loss, epoch_s, decision, reason
    promote  trial, epoch                                        leaves the rung of this epoch
    error    trial, message                                      gave up after all retries
    session  slots, lanes                                        a driver begins
    end      reason, wall_s, epochs_wasted, compilations         a driver is through

A number that is not finite is written as null. Reports also say where they come from, which
nothing depends on: ``worker``, a host and a process, and ``node``, Ray's id of that host.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mnist_tune import records, segments
from mnist_tune.errors import RunError
from mnist_tune.places import Place
from mnist_tune.records import COUNT, MAPPING, NUMBER, TEXT, Shape

Event = dict[str, Any]

_SHAPES: Mapping[str, Shape] = {
    "trial": {"trial": COUNT, "config": MAPPING},
    "report": {
        "trial": COUNT,
        "epoch": COUNT,
        "accuracy": records.optional(NUMBER),
        "loss": records.optional(NUMBER),
        "epoch_s": NUMBER,
        "decision": records.one_of("continue", "pause", "stop"),
        "reason": TEXT,
    },
    "promote": {"trial": COUNT, "epoch": COUNT},
    "error": {"trial": COUNT, "message": TEXT},
    "session": {"slots": COUNT, "lanes": records.if_there(COUNT)},
    "end": {
        "reason": TEXT,
        "wall_s": NUMBER,
        "epochs_wasted": records.if_there(COUNT),
        "compilations": records.if_there(COUNT),
    },
}
_EVENT: Shape = {"event": records.one_of(*_SHAPES)}


def append(path: Path, events: Iterable[Mapping[str, Any]]) -> None:
    """Appends events and waits until they are on the disk; all of them or, on an error, none."""
    lines = "".join(json.dumps(_finite(event), allow_nan=False) + "\n" for event in events)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        size_bytes = os.fstat(handle).st_size
        try:
            _write_all(handle, lines.encode())
            os.fdatasync(handle)
        except BaseException:
            # A part of a line would damage the one that is appended next.
            os.ftruncate(handle, size_bytes)
            raise
    finally:
        os.close(handle)


def read(path: Place) -> list[Event]:
    """Reads all whole lines, of a file or of a ledger in a store.

    Raises:
        RunError: it can't be read, or a line is damaged.
        StorageError: the store can't be asked for it.
    """
    content = _content(path) if isinstance(path, Path) else segments.read(path)
    whole = content[: content.rfind(b"\n") + 1]
    return [_parse(line, f"{path}:{i}") for i, line in enumerate(whole.split(b"\n")[:-1], 1)]


def drop_torn_line(path: Path) -> None:
    """Cuts off a last line that a crash left without its end, so that appending is safe.

    Raises:
        RunError: the file can't be read.
    """
    content = _content(path)
    whole_bytes = content.rfind(b"\n") + 1
    if whole_bytes < len(content):
        os.truncate(path, whole_bytes)


def _content(path: Path) -> bytes:
    if path.is_symlink():
        # What it leads to may be no ledger, and would be appended to.
        raise RunError(f"{path}: is a link; a ledger must be a file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None


def _parse(line: bytes, where: str) -> Event:
    try:
        event: Event = json.loads(line)
        records.check(event, _EVENT)
        records.check(event, _SHAPES[event["event"]])
    except (ValueError, RecursionError) as error:
        raise RunError(f"{where}: the ledger is damaged here ({error})") from None
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
