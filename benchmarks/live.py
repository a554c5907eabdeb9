"""A training loop in a live process of its own: compiled and warm, an epoch whenever asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.task import Task, read_task
from benchmarks.processes import ContestantError, module
from benchmarks.settings import ROOT
from benchmarks.training_loops import VARIANTS, Epoch


@contextmanager
def live(name: str, task: Task, core: int | None = None) -> Iterator[Callable[[], Epoch]]:
    """A loop's process for the time of a ``with``, after a first epoch that isn't measured.

    Args:
        name: of the loop, in ``VARIANTS``.
        task: what it trains on.
        core: the core that its process is kept on; None: as this process.

    Yields:
        What trains one more epoch there.
    """
    directory = Path(task.directory)
    path = directory / f"{name}-{core}.json"
    task.write(path)
    with (directory / f"{name}-{core}.log").open("w+") as log:
        process = subprocess.Popen(
            module("live", str(path), name, "" if core is None else str(core)),
            cwd=ROOT,
            env={
                **os.environ,
                "XDG_CACHE_HOME": str(directory),
                **VARIANTS[name].environment,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def epoch() -> Epoch:
            stdin.write("epoch\n")
            stdin.flush()
            answer = stdout.readline()
            if not answer:
                log.seek(0)
                raise ContestantError(f"{name}: {log.read()[-3000:]}")
            return Epoch(*json.loads(answer))

        try:
            epoch()
            yield epoch
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """The process itself: an epoch for each line on stdin, its figures on stdout."""
    name, core = sys.argv[2:]
    if core:
        os.sched_setaffinity(0, {int(core)})
    loop = VARIANTS[name].start(read_task())
    for _ in sys.stdin:
        sys.stdout.write(json.dumps(loop()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
