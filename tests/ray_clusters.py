"""Ray clusters on this machine, from Ray's own parts: a head, nodes beside it, an autoscaler."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.processes import processes_naming, wait_until

_RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]


@contextmanager
def head(
    temporary: Path,
    *,
    cpus: int,
    client_port: int | None = None,
    autoscaling: dict[str, Any] | None = None,
    env: dict[str, str] | None = None,
) -> Iterator[str]:
    """A cluster's head; gives its address. The environment has its token meanwhile.

    Args:
        temporary: a directory with a short name, for Ray's files.
        cpus: that trials may use there.
        client_port: of its client server.
        autoscaling: names of nodes → their resources, for an autoscaler to start up to two of.
        env: more of its environment.
    """
    address = f"{_own_address()}:{free_port()}"
    command = [
        *_RAY,
        "--head",
        f"--port={address.rpartition(':')[2]}",
        f"--num-cpus={cpus}",
        "--object-store-memory=200000000",
        "--include-dashboard=false",
        f"--ray-client-server-port={client_port or free_port()}",
        f"--temp-dir={temporary}",
    ]
    variables = {"RAY_enable_autoscaler_v2": "0", **(env or {})}
    if autoscaling is not None:
        path = temporary.with_suffix(".json")
        path.write_text(json.dumps(_autoscaling(address, autoscaling)))
        command.append(f"--autoscaling-config={path}")
        variables |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    with (
        # Its ports are open to the network.
        patch.dict(os.environ, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32)),
        _running(command, variables, temporary),
    ):
        yield address
    # Ray's fake provider leaves its nodes' log monitors.
    for line in processes_naming(temporary):
        os.kill(int(line.partition(":")[0]), signal.SIGKILL)


@contextmanager
def node(address: str, temporary: Path, cpus: int, *args: str, **env: str) -> Iterator[None]:
    """One more node of a cluster."""
    command = [*_RAY, f"--address={address}", f"--num-cpus={cpus}", *args]
    with _running([*command, "--object-store-memory=100000000"], env, temporary):
        yield


@contextmanager
def _running(command: list[str], env: dict[str, str], temporary: Path) -> Iterator[None]:
    log = temporary.with_suffix(f".{free_port()}.log")
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            env={
                **os.environ,
                "TMPDIR": str(temporary),
                # Nodes end so long after their head; 60 by default.
                "RAY_gcs_rpc_server_reconnect_timeout_s": "3",
                **env,
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: "will now block" in log.read_text(), 60, f"{command} ({log})")
        yield
    finally:
        process.terminate()
        process.wait(60)
        log.unlink()


def _own_address() -> str:
    # Ray replaces a loopback address by this one.
    from ray._private.services import get_node_ip_address

    return str(get_node_ip_address())


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _autoscaling(address: str, nodes: dict[str, Any]) -> dict[str, Any]:
    """What Ray's fake provider wants, which starts nodes as processes of this machine."""
    types = {
        name: {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": 2}
        for name, resources in nodes.items()
    }
    types["ray.head.default"] = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    lists = ("setup", "head_setup", "worker_setup", "initialization", "head_start_ray")
    return {
        "cluster_name": "here",
        "max_workers": 2,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 100,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "head_node_id": "fffffffffffffffffffffffffffffffffffffffffffffffffff00000",
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "use_node_id_as_ip": True,
        },
        "auth": {},
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        **{f"{name}_commands": [] for name in (*lists, "worker_start_ray")},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "docker": {},
    }
