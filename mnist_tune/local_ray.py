"""Ray on this machine, for one search: started with less, and with workers that are forks.

``ray.init`` starts an autoscaler, a dashboard's server and a log collector, each a second or
more of CPU time, and each worker imports JAX and Ray Tune for five more. A search on one
machine has no use for the first three, and shares the imports (``worker_server``). Ray has no
public switch for either; the version of Ray is therefore held within a minor release.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mnist_tune import devices, idle_agent, worker_launcher

_SERVER = "mnist_tune.worker_server"
_OBJECT_STORE_BYTES = 400 << 20


@contextmanager
def worker_server(directory: str, light: bool) -> Iterator[None]:
    """Runs ``worker_server`` for the time of a ``with``; it starts at once, in the background.

    Args:
        directory: of this user alone, for its socket.
        light: its workers import JAX when they need it, since most of them don't.
    """
    path = f"{directory}/workers"
    environment = {worker_launcher.SERVER: path, worker_launcher.SCRIPT: str(_worker_script())}
    quiet = {
        # No threads of NumPy's: they would not be there after a fork.
        "OPENBLAS_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    driver_gone, driver = os.pipe()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(1024)
        inherited = (listening.fileno(), driver_gone)
        server = subprocess.Popen(
            # The directory tells whose it is.
            [
                *(sys.executable, "-P", "-m", _SERVER),
                *map(str, inherited),
                "light" if light else "whole",
                directory,
            ],
            pass_fds=inherited,
            env={**quiet, **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    os.close(driver_gone)
    try:
        os.environ.update(environment)
        yield
    finally:
        for name in environment:
            os.environ.pop(name, None)
        # Not asked: it could hang. Its forks end with it.
        server.kill()
        server.wait()
        os.close(driver)


def start(directory: str, level: int, verbose: bool) -> None:
    """Starts Ray and connects to it; its workers come from ``worker_server`` if that runs.

    Args:
        directory: for Ray's sockets and logs.
        level: of its logs.
        verbose: let its workers speak.
    """
    import ray
    from ray._private import node, ray_constants, services

    class LightNode(node.Node):  # type: ignore[misc]
        def __init__(self, ray_params: Any, **options: Any) -> None:
            ray_params.no_monitor = True
            ray_params.include_log_monitor = verbose
            if worker_launcher.SERVER in os.environ:
                ray_params.worker_path = worker_launcher.__file__
            super().__init__(ray_params, **options)

        def start_api_server(self, **_: Any) -> None:
            pass

    agents = (
        ray_constants.PROCESS_TYPE_DASHBOARD_AGENT,
        ray_constants.PROCESS_TYPE_RUNTIME_ENV_AGENT,
    )
    interpreter = services._build_python_executable_command_memory_profileable

    def idle_agents(component: str, *arguments: Any, **options: Any) -> list[str]:
        if component in agents:
            return [sys.executable, "-I", "-S", idle_agent.__file__]
        command: list[str] = interpreter(component, *arguments, **options)
        return command

    with (
        patch.object(node, "Node", LightNode),
        patch.object(services, interpreter.__name__, idle_agents),
        # Else Ray replaces 127.0.0.1 by an address that others reach, and listens everywhere.
        patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False),
    ):
        ray.init(
            address="local",
            num_cpus=devices.cpu_count(),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            logging_level=level,
            log_to_driver=verbose,
            _node_ip_address="127.0.0.1",
            _temp_dir=directory,
        )


@contextmanager
def own_token() -> Iterator[None]:
    """Lets only processes of this search into its Ray, by a token that ends with it.

    Ray would make one itself and leave it in the user's home, where ``ray start`` finds it later
    and asks for it on a cluster's head, but not on its workers.
    """
    try:
        with patch.dict(os.environ):
            os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
            read_token_again()
            yield
    finally:
        read_token_again()


def read_token_again() -> None:
    """Has Ray take up what the environment now says of tokens; it does so only when imported."""
    # Compiled: a type checker sees nothing in it.
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def one_environment() -> Iterator[None]:
    """Lets trials run in Ray's ready workers.

    Tune asks for environment variables of its own for its workers. They are this process's, or
    PyTorch Lightning's; for them Ray would start each worker anew, by way of another interpreter.
    """
    from ray.tune.execution import class_cache

    with patch.multiple(class_cache, DEFAULT_ENV_VARS={}, ENV_VARS_TO_PROPAGATE=frozenset()):
        yield


def _worker_script() -> Path:
    # Without importing Ray: the server is to start first.
    ray = find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    return Path(ray.origin).with_name("_private") / "workers" / "default_worker.py"
