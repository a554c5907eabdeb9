"""Tries what a search needs, piece by piece."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mnist_tune import afar, devices
from mnist_tune.cluster import local_gpus, ray_session
from mnist_tune.datasets import DATASETS, dataset_info
from mnist_tune.errors import MnistTuneError
from mnist_tune.options import SearchOptions
from mnist_tune.places import Place
from mnist_tune.preflight import NodeReport, try_nodes
from mnist_tune.runs import storage_path
from mnist_tune.signals import interruptible
from mnist_tune.slots import nodes
from mnist_tune.storage import probe


class Finding(NamedTuple):
    """One thing that was tried."""

    name: str
    ok: bool
    detail: str


def diagnose(data_dir: str | None, storage: str | None, verbose: bool) -> list[Finding]:
    """Tries versions, devices, directories, data and Ray, each by itself.

    Args:
        data_dir: where the data is; None: TFDS's place.
        storage: the directory for runs, or its URI; None: the default.
        verbose: let Ray speak.
    """
    findings = [
        _try("versions", lambda: ", ".join(f"{k} {v}" for k, v in devices.versions().items())),
        _try("devices", _devices),
        _try("runs", lambda: _usable(storage_path(storage))),
        _try("compilation cache", lambda: _writable(devices.compilation_cache_dir())),
    ]
    findings += [_data(name, data_dir) for name in DATASETS]
    return [*findings, _try("ray", lambda: _ray(verbose))]


def diagnose_cluster(address: str, storage: str | None, verbose: bool) -> list[NodeReport]:
    """Tries each node of a Ray cluster.

    Args:
        address: the cluster's, as ``SearchOptions`` takes it.
        storage: the directory for runs; None: the default.
        verbose: let Ray speak.
    """
    if afar.is_far(SearchOptions(address=address).address):
        return afar.try_nodes_there(address, storage, verbose)
    with interruptible(), ray_session(address, verbose) as connect:
        connect()
        return try_nodes(nodes(), storage_path(storage), gpus=True)


def _try(name: str, attempt: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, attempt())
    except (MnistTuneError, OSError, RuntimeError, ImportError) as error:
        return Finding(name, False, " ".join(str(error).split()))


def _devices() -> str:
    # In a process of its own: Ray forks, which a process must not do once JAX has threads.
    code = "from mnist_tune import devices; devices.configure(); print(*devices.current()[:2])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"JAX doesn't start: {done.stderr.strip().splitlines()[-1]}")
    platform, _, kind = done.stdout.strip().partition(" ")
    found = f"JAX uses {platform} ({kind}), {devices.cpu_count()} CPU cores"
    gpus = local_gpus()
    if gpus and platform == "cpu":
        raise RuntimeError(f"{found}; {gpus} GPUs are here: install mnist-tune[cuda]")
    return found


def _usable(runs: Place) -> str:
    if isinstance(runs, Path):
        return _writable(runs)
    probe(runs)
    return f"{runs}, can be written, read and deleted in"


def _writable(directory: Path) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory):
        free_bytes = os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize
    if free_bytes < 1 << 30:
        raise OSError(f"{directory}: only {free_bytes >> 20} MiB free")
    return f"{directory}, {free_bytes >> 30} GiB free"


def _data(name: str, data_dir: str | None) -> Finding:
    try:
        info = dataset_info(name, data_dir)
    except MnistTuneError as error:
        return Finding(f"data: {name}", False, str(error))
    detail = info.problem or f"{info.state}, {info.path}"
    return Finding(f"data: {name}", info.state != "damaged", detail)


def _ray(verbose: bool) -> str:
    with ray_session(None, verbose) as connect:
        import ray

        connect()
        pid = ray.get(ray.remote(_pid).remote())
        resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    return f"runs a task (process {pid}); {cpus:g} CPUs, {gpus:g} GPUs"


def _pid() -> int:
    return os.getpid()
