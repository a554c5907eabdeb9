"""What JAX runs on: set up once in a process, before JAX starts, and described for the record."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

Platform = Literal["cpu", "gpu"]


def compilation_cache_dir() -> Path:
    """Where compiled programs are kept between processes."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnist-tune" / "jax"


def configure(device: Platform | None = None, threads: int | None = None) -> None:
    """Prepares JAX in this process; must come before the first use of a device.

    Args:
        device: ``cpu`` keeps JAX off the GPU (also where Ray shows it one); None and ``gpu``
            leave the choice to JAX.
        threads: how many threads XLA uses on a CPU, ≥ 1; None for one a core.
    """
    if device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    if threads is not None:
        os.environ["NPROC"] = str(threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    import jax

    if device == "cpu":
        # JAX reads the variable when it's imported, which may have been before.
        jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", str(compilation_cache_dir()))
    # JAX keeps only programs that took a second to compile unless told otherwise.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@contextmanager
def compiling_alone() -> Iterator[None]:
    """Waits until no other process of this user's compiles, and keeps others waiting.

    Processes that start together would compile the same programs each; this way one does, and
    the others find them in the cache.
    """
    directory = compilation_cache_dir()
    with contextlib.ExitStack() as stack:
        # A file system without locks only costs time.
        with contextlib.suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            handle = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def cpu_count() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


class Device(NamedTuple):
    """What decides how numbers are rounded: a replay needs the same.

    Attributes:
        platform: ``cpu`` or ``gpu``.
        kind: the CPU's or GPU's model name.
        threads: XLA's threads on a CPU; 0 on a GPU.
    """

    platform: str
    kind: str
    threads: int

    def record(self) -> dict[str, Any]:
        """The fields as plain values."""
        return self._asdict()


def current() -> Device:
    """The device that JAX uses in this process; starts JAX's backend."""
    import jax

    device = jax.devices()[0]
    if device.platform == "cpu":
        return Device("cpu", _cpu_model(), int(os.environ.get("NPROC") or cpu_count()))
    return Device(device.platform, device.device_kind, 0)


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of what a result depends on."""
    packages = ("mnist-tune", "jax", "jaxlib", "flax", "optax", "ray", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


@cache
def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
