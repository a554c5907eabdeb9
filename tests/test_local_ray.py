"""Ray on this machine: its workers are forks of one process, and little else is started."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from processes import nothing_left, processes_naming, temporary_directory

from mnist_tune.cluster import ray_session

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def short_tmp(monkeypatch: pytest.MonkeyPatch) -> Any:
    with temporary_directory() as path:
        monkeypatch.setattr("tempfile.tempdir", str(path))
        yield path


@ray.remote
def look() -> dict[str, Any]:
    parent = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode()
    return {
        "parent": parent,
        "modules": [name for name in ("jax", "pandas", "ray.tune") if name in sys.modules],
        "group": os.getpgid(0) == os.getpid(),
        "threads_of_numpy": os.environ.get("OPENBLAS_NUM_THREADS"),
    }


def server_process(temporary: Path) -> int:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if "mnist_tune.worker_server" in command and str(temporary) in command:
            return int(entry.name)
    raise AssertionError("no server")


def test_workers_are_forks_that_have_imported_what_trials_need(short_tmp: Path) -> None:
    with ray_session(None, verbose=False) as connect:
        connect()
        seen = ray.get(look.remote())
        started = " ".join(processes_naming(short_tmp))
    assert "mnist_tune.worker_server" in seen["parent"]
    assert seen["modules"][:2] == ["jax", "pandas"]
    # Ray ends a worker with its process group, which must not be the server's.
    assert seen["group"]
    # The worker's environment is the one that Ray gave it, not the server's own.
    assert seen["threads_of_numpy"] == os.environ.get("OPENBLAS_NUM_THREADS")
    assert "gcs_server" in started
    for unused in ("autoscaler/_private/monitor.py", "dashboard/dashboard.py", "log_monitor.py"):
        assert unused not in started
    nothing_left(short_tmp)
    assert not [name for name in os.environ if name.startswith("MNIST_TUNE_WORKER")]


def test_without_the_server_workers_start_as_ray_starts_them(short_tmp: Path) -> None:
    with ray_session(None, verbose=False) as connect:
        os.kill(server_process(short_tmp), signal.SIGKILL)
        connect()
        seen = ray.get(look.remote())
    assert "mnist_tune.worker_server" not in seen["parent"]
    assert "jax" not in seen["modules"]
    nothing_left(short_tmp)


def test_garbage_is_collected_again_after_the_start() -> None:
    with ray_session(None, verbose=False):
        assert not gc.isenabled()
    assert gc.isenabled()
