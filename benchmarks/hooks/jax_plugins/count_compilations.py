"""Counts XLA compilations in every process that starts JAX with ``hooks/`` on its path.

JAX imports the modules of the namespace ``jax_plugins`` when it starts its backends, and calls
their ``initialize``. A line a program goes to the file named by ``COUNT_COMPILATIONS``.
"""

from __future__ import annotations

import json
import os
from typing import Any

_BACKEND_COMPILE = "/jax/core/compile/backend_compile_duration"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"


def initialize() -> None:
    """Begins to count, if it was asked for."""
    path = os.environ.get("COUNT_COMPILATIONS")
    if not path:
        return
    from jax import monitoring

    hit = False

    def on_event(event: str, **_: Any) -> None:
        nonlocal hit
        hit = hit or event == _CACHE_HIT

    def on_duration(event: str, duration_secs: float, **details: str | int) -> None:
        nonlocal hit
        if event != _BACKEND_COMPILE:
            return
        line = {
            "pid": os.getpid(),
            "program": details.get("fun_name", ""),
            "seconds": duration_secs,
            "compiled": not hit,
        }
        hit = False
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")

    monitoring.register_event_listener(on_event)
    monitoring.register_event_duration_secs_listener(on_duration)
