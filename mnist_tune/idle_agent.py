"""What Ray starts in place of its two agents: offers nothing, and ends when Ray does.

They serve a dashboard, metrics and runtime environments, of which a search on one machine has
none; each imports for more than a second. Started by path, as Ray does, and in milliseconds.
"""

from __future__ import annotations

import os
import sys
import time

_PORTS = (
    "metrics_agent_port",
    "metrics_export_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)
_LOOK_EVERY_S = 0.5


def main() -> None:
    """Tells the raylet that there is no service, as Ray's own minimal agent does, and waits."""
    raylet = os.getppid()
    given = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    for port in _PORTS:
        path = f"{given['--session-dir']}/{port}_{given['--node-id']}"
        part = f"{path}.{os.getpid()}"
        with open(part, "w") as file:
            file.write("-1")
        os.replace(part, path)
    while os.getppid() == raylet:
        time.sleep(_LOOK_EVERY_S)


if __name__ == "__main__":
    main()
