"""What Ray starts in place of a worker: asks ``worker_server`` for one and lives as long as it.

Started by path, as Ray does, and in milliseconds: it imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys

SERVER = "MNIST_TUNE_WORKER_SERVER"
"""The environment variable that holds the server's socket."""
SCRIPT = "MNIST_TUNE_WORKER_SCRIPT"
"""The environment variable that holds the path of Ray's worker script."""


def main() -> None:
    """Has the worker forked; without a server, becomes an ordinary worker."""
    command = [os.environ[SCRIPT], *sys.argv[1:]]
    try:
        forked = _ask(command)
    except OSError:
        forked = False
    if not forked:
        os.execv(sys.executable, [sys.executable, *command])


def _ask(command: list[str]) -> bool:
    """Waits for a fork and then for its end; whether there was one."""
    request = {"command": command, "environment": dict(os.environ), "directory": os.getcwd()}
    content = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ[SERVER])
        socket.send_fds(server, [len(content).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(content)
        if not server.recv(1):
            return False
        with contextlib.suppress(ConnectionError):
            server.recv(1)
        return True


if __name__ == "__main__":
    main()
