"""A process that has imported what trials need, and becomes a worker of Ray whenever asked to.

Importing JAX and what Ray Tune is made of takes a process seconds of CPU time, more than a
trial of a short search trains. Here they are imported once, while Ray starts, and each worker
is a fork. What can't be shared by forking isn't there yet: no JAX backend, no Ray (it reads its
worker's environment when it's imported), no thread of ours.

The driver starts ``main``; Ray's raylet starts ``worker_launcher`` in place of a worker, which
asks here for one by a socket that only this user can reach, and lives as long as it. The workers
end with this process, and this process with the driver.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_LIGHT = ("mnist_tune.trial_files",)
_WHOLE = (*_LIGHT, "mnist_tune.training")
# What Ray Tune imports, most of its own time; nothing fails if it no longer does.
_RAYS = ("pandas", "pyarrow.fs", "pydantic", "jsonschema", "requests", "rich", "google.protobuf")


def main() -> None:
    """Serves until the driver is gone: ``worker_server SOCKET_FD DRIVER_FD WHICH DIRECTORY``.

    The first is a listening socket, the second a pipe whose other end only the driver has. Workers
    that are ``light`` haven't imported JAX, others are ``whole``. The directory is for whoever
    looks at the list of processes.
    """
    listening, driver = (int(argument) for argument in sys.argv[1:3])
    _killed_with_its_parent()
    _import_all(_LIGHT if sys.argv[3] == "light" else _WHOLE)
    # The forks' parent doesn't wait for them: let the kernel do it.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    poll = select.poll()
    for handle in (listening, driver):
        poll.register(handle, select.POLLIN | select.POLLHUP)
    with socket.socket(fileno=listening) as server:
        while driver not in (ready := [handle for handle, _ in poll.poll()]):
            if listening in ready:
                asked, _ = server.accept()
                with contextlib.suppress(OSError, ValueError):
                    _fork(asked, driver, server)
                asked.close()


def _import_all(ours: Sequence[str]) -> None:
    # Garbage collection while everything that is made stays takes a tenth of the time, and in
    # a fork it would write to, and so copy, the memory that is shared.
    gc.disable()
    for name in ours:
        importlib.import_module(name)
    for name in _RAYS:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()
    gc.enable()


def _fork(asked: socket.socket, driver: int, server: socket.socket) -> None:
    request, handles = _receive(asked)
    server_pid = os.getpid()
    try:
        if os.fork() == 0:
            _killed_with_its_parent()
            if os.getppid() != server_pid:
                os._exit(1)
            server.close()
            os.close(driver)
            _become_worker(asked, handles, **request)
    finally:
        for handle in handles:
            os.close(handle)


def _killed_with_its_parent() -> None:
    """Has the kernel end this process when its parent is gone.

    Ray asks a worker to end, or leaves it to see that Ray is gone; one that hangs does neither.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _receive(asked: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The command line, environment and directory of the worker, and its standard streams."""
    asked.settimeout(10)
    size, handles, _, _ = socket.recv_fds(asked, 8, 3)
    with asked.makefile("rb") as stream:
        request: dict[str, Any] = json.loads(stream.read(int.from_bytes(size, "big")))
    return request, handles


def _become_worker(
    asked: socket.socket,
    handles: Sequence[int],
    command: Sequence[str],
    environment: Mapping[str, str],
    directory: str,
) -> NoReturn:
    """Runs Ray's worker script as if this process had been started for it."""
    status = 1
    try:
        # Ray ends a worker with its whole process group.
        os.setsid()
        for stream, handle in enumerate(handles):
            os.dup2(handle, stream)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(directory)
        sys.argv = list(command)
        # The launcher's sign that its worker lives; the socket closes with this process.
        asked.sendall(b"1")
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else 1
    except BaseException:  # noqa: BLE001  # it is on its way out
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
