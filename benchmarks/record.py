"""A result with where, when and with what it was taken."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from benchmarks.machine import machine, versions


def record_of(result: dict[str, Any], command: str, gpu: str | None) -> dict[str, Any]:
    """What ``report.save`` takes for a benchmark.

    Args:
        result: what came out.
        command: how to get it, without the data's directory, which is of this machine only.
        gpu: the kind of GPU that it was taken on, if it was.
    """
    return {
        "date": f"{datetime.now():%Y-%m-%d}",
        "command": command,
        "machine": {**machine(), **({"gpu": gpu} if gpu else {})},
        "versions": versions(),
        # As it will be read back: tuples have become lists.
        "result": json.loads(json.dumps(result)),
    }
