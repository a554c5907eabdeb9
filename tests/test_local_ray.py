"""Ray on this machine: its workers are forks of one process, and little else is started."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from processes import nothing_left, processes_naming, temporary_directory, wait_until

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
        "pid": os.getpid(),
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
        running = processes_naming(short_tmp)
        started = " ".join(running)
    assert "mnist_tune.worker_server" in seen["parent"]
    assert seen["modules"][:2] == ["jax", "pandas"]
    # Ray ends a worker with its process group, which must not be the server's.
    assert seen["group"]
    # The worker's environment is the one that Ray gave it, not the server's own.
    assert seen["threads_of_numpy"] == os.environ.get("OPENBLAS_NUM_THREADS")
    assert "gcs_server" in started
    for unused in ("autoscaler/_private/monitor.py", "dashboard/dashboard.py", "log_monitor.py"):
        assert unused not in started
    # Their command lines go on with the agents that Ray wanted.
    agents = [line for line in running if "dashboard/agent.py" in line or "agent/main.py" in line]
    assert len(agents) == 2
    assert all("mnist_tune/idle_agent.py" in line for line in agents)
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


def test_a_worker_that_hangs_ends_with_the_search(short_tmp: Path) -> None:
    with ray_session(None, verbose=False) as connect:
        connect()
        # Neither Ray's request to end nor the end of Ray reaches a process that is stopped.
        os.kill(ray.get(look.remote())["pid"], signal.SIGSTOP)
    nothing_left(short_tmp)


def test_a_server_that_hangs_ends_with_the_search(short_tmp: Path) -> None:
    with ray_session(None, verbose=False) as connect:
        connect()
        os.kill(server_process(short_tmp), signal.SIGSTOP)
    nothing_left(short_tmp)


def test_afterwards_the_environment_and_the_logger_are_as_before() -> None:
    before, level = dict(os.environ), logging.getLogger("ray").level
    with ray_session(None, verbose=False) as connect:
        connect()
        assert logging.getLogger("ray").level == logging.CRITICAL
        assert dict(os.environ) != before
    assert dict(os.environ) == before
    assert logging.getLogger("ray").level == level


def test_the_idle_agents_end_with_ray_even_if_it_is_killed(short_tmp: Path) -> None:
    with ray_session(None, verbose=False) as connect:
        connect()
        (raylet,) = (line for line in processes_naming(short_tmp) if "raylet/raylet" in line)
        os.kill(int(raylet.split(":")[0]), signal.SIGKILL)
        wait_until(
            lambda: "idle_agent.py" not in " ".join(processes_naming(short_tmp)), 10, "the end"
        )


KEYS = """
import sys
from ray._raylet import GcsClient
print(GcsClient(sys.argv[1]).internal_kv_keys(b""))
"""


def test_only_this_search_has_the_token(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(short_tmp))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with ray_session(None, verbose=False) as connect:
        connect()
        address = ray.get_runtime_context().gcs_address
        known = {**os.environ}
        assert _exit_code(KEYS, address, known) == 0
        for other in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "0" * 64}):
            assert _exit_code(KEYS, address, {**known, **other}) == 1
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert "RAY_AUTH_TOKEN" not in os.environ
    # Ray's own token would be there; a cluster started later would ask for it.
    assert not (short_tmp / ".ray").exists()


def _exit_code(program: str, address: str, environment: dict[str, str]) -> int:
    command = [sys.executable, "-c", program, address]
    return subprocess.run(
        command, env=environment, capture_output=True, timeout=60, check=False
    ).returncode


def test_ray_listens_on_loopback_only(short_tmp: Path) -> None:
    with ray_session(None, verbose=False) as connect:
        connect()
        ray.get(look.remote())
        pids = [os.getpid(), *(int(line.split(":")[0]) for line in processes_naming(short_tmp))]
        addresses = {address for pid in pids for address in listening(pid)}
    assert addresses
    assert {address for address in addresses if address not in LOOPBACK} == set()


# As in /proc/net/tcp and tcp6: 127.0.0.1, ::1 and ::ffff:127.0.0.1.
LOOPBACK = ("0100007F", f"{1 << 24:032X}", "0000000000000000FFFF00000100007F")


def listening(pid: int) -> set[str]:
    """The addresses at which a process has sockets that listen."""
    sockets = set()
    for handle in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(handle))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].rpartition(":")[0])
    return found


def test_garbage_is_collected_again_after_the_start() -> None:
    with ray_session(None, verbose=False):
        assert not gc.isenabled()
    assert gc.isenabled()
