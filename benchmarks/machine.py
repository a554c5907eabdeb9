"""What the figures were taken on: machine and versions."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_ASK_FOR_GPU = """
import jax
device = jax.devices()[0]
print("" if device.platform == "cpu" else device.device_kind)
"""

_PACKAGES = (
    *("mnist-tune", "jax", "jaxlib", "flax", "optax", "ray", "numpy"),
    *("torch", "optuna", "keras", "keras-tuner", "tensorflow"),
)


def machine() -> dict[str, Any]:
    """CPU model, cores (of the machine, and those used) and memory."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "cores_used": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages * page_bytes / 2**30, 1),
        "system": platform.platform(),
    }


def gpu() -> str | None:
    """The kind of the GPU that JAX finds, if it does.

    Another process asks: one that has started JAX keeps most of the GPU's memory.
    """
    asked = subprocess.run(
        [sys.executable, "-c", _ASK_FOR_GPU], stdout=subprocess.PIPE, text=True, check=True
    )
    return asked.stdout.strip() or None


def versions() -> dict[str, str]:
    """Python's version and those of the packages that take part and are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    """The model's name, with family and model where a virtual machine hides which one it is."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    name = fields.get("model name", platform.machine())
    return f"{name} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})"
