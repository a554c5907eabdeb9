"""``python -m tests.cluster``, as root: the play on hosts of its own, as a table.

``ray up`` of clusters/local.yaml, a search on three hosts, one without power and one without
network in the middle of it, ``ray down``. Exits with 1 if anything is lost or left.
"""

from __future__ import annotations

import signal
import sys
import time

from tests.cluster.hosts import missing, running
from tests.cluster.play import Row, play


def main() -> None:
    """Plays it and prints the table."""
    if reason := missing():
        raise SystemExit(f"python -m tests.cluster {reason}")

    # So that the hosts are removed then too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def tell(row: Row) -> None:
        sys.stdout.write(f"| {row.what} | {row.took_s:.1f} | {row.detail} |\n")
        sys.stdout.flush()

    sys.stdout.write("| what | after (s) | |\n|---|---|---|\n")
    began_s = time.monotonic()
    try:
        with running() as directory:
            tell(Row("4 hosts are up", time.monotonic() - began_s))
            play(directory, tell)
    except Exception as error:  # noqa: BLE001  # whatever it is, the play has failed
        sys.stdout.write(f"failed: {type(error).__name__}: {error}\n")
        raise SystemExit(1) from None
    tell(Row("nothing is left of the hosts", time.monotonic() - began_s))


if __name__ == "__main__":
    main()
