"""What can happen to a search: how it's hurt, and what a user mends before resuming it."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.processes import events, processes_naming, temporary_directory

TRIALS, EPOCHS = 6, 4
_SPACE = """
parameters:
  learning_rate: {distribution: loguniform, low: 1.0e-3, high: 0.3}
  beta: {distribution: uniform, low: 0.0, high: 0.95}
"""
_DIVERGING = "parameters:\n  learning_rate: {distribution: choice, values: [0.05, 1000.0]}\n"


class LostError(AssertionError):
    """Something that was finished is gone, or something is wrong afterwards."""


@dataclass
class Search:
    """A search under way.

    Attributes:
        driver: its process.
        temporary: all its processes name this directory.
        run: its run directory.
        data_dir: its data, for it alone.
        rng: what is hurt and how.
        before_resume: what is done when the driver has ended, before it's resumed.
    """

    driver: subprocess.Popen[str]
    temporary: Path
    run: Path
    data_dir: Path
    rng: random.Random
    before_resume: Callable[[], object] = field(default=lambda: None)

    def workers(self) -> list[int]:
        """The processes that train, as the ledger knows them, while they live."""
        found = {int(event["worker"].rpartition(":")[2]) for event in events(self.run, "report")}
        return sorted(pid for pid in found if Path(f"/proc/{pid}").exists())

    def processes(self, containing: str = "") -> list[int]:
        """All processes but the driver."""
        lines = processes_naming(self.temporary)
        return [int(line.partition(":")[0]) for line in lines if containing in line]

    def kill(self, *pids: int) -> None:
        """SIGKILL."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def resume(search: Search) -> subprocess.CompletedProcess[str]:
    """``mnist-tune resume``, as a user types it."""
    return subprocess.run(
        [sys.executable, "-m", "mnist_tune", "resume", str(search.run)],
        env={**os.environ, "TMPDIR": str(search.temporary)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """A file system of its own on a directory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", directory], check=True)
    try:
        yield
    finally:
        # Lazily: a failed round can have left a process in it.
        subprocess.run(["umount", "-l", directory], check=True)


def can_mount() -> bool:
    """Whether ``small_disk`` works here: it needs root, and a machine that lets root do it."""
    try:
        with temporary_directory() as directory, small_disk(directory):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def kill_trial(search: Search) -> None:
    """kill -9 of a process that trains."""
    search.kill(search.rng.choice(search.workers()))


def kill_raylet(search: Search) -> None:
    """kill -9 of Ray's node process."""
    search.kill(*search.processes("raylet/raylet"))


def kill_worker_server(search: Search) -> None:
    """kill -9 of the process that workers are forked from, and of a worker."""
    search.kill(*search.processes("mnist_tune.worker_server"), search.rng.choice(search.workers()))


def kill_engine(search: Search) -> None:
    """kill -9 of the processes that train the trials of many others."""
    servers = search.processes("mnist_tune.worker_server")
    forks = [int(pid) for server in servers for pid in _children(server)]
    engines = [pid for pid in forks if "_RayEngine" in Path(f"/proc/{pid}/cmdline").read_text()]
    if not engines:
        raise LostError("there is no engine to kill")
    search.kill(*engines)


def _children(process_id: int) -> list[str]:
    return Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()


def kill_driver(search: Search) -> None:
    """kill -9 of the driver."""
    search.driver.kill()


def kill_everything(search: Search) -> None:
    """kill -9 of the driver and of all that it has started."""
    search.kill(search.driver.pid, *search.processes(), *search.workers())


def interrupt(search: Search) -> None:
    """SIGINT."""
    search.driver.send_signal(signal.SIGINT)


def terminate(search: Search) -> None:
    """SIGTERM."""
    search.driver.send_signal(signal.SIGTERM)


def hang(search: Search) -> None:
    """A trial that hangs, until the user gives up."""
    worker = search.rng.choice(search.workers())
    os.kill(worker, signal.SIGSTOP)
    time.sleep(3)
    interrupt(search)


def out_of_memory(search: Search) -> None:
    """A trial that gets no more memory."""
    worker = search.rng.choice(search.workers())
    resource.prlimit(worker, resource.RLIMIT_AS, (1 << 20, 1 << 20))


def raise_in_trial(search: Search) -> None:
    """Trials that raise: where their checkpoints would go there is a file."""
    for trial in range(TRIALS):
        directory = search.run / "checkpoints" / f"{trial:05d}"
        if not directory.exists():
            directory.parent.mkdir(exist_ok=True)
            directory.touch()

    def mend() -> None:
        for path in (search.run / "checkpoints").glob("*"):
            if path.is_file():
                path.unlink()

    search.before_resume = mend


def vanish(search: Search) -> None:
    """The run directory is moved away under the search, and moved back."""
    away = search.run.with_name("away")
    search.run.rename(away)
    with suppress(subprocess.TimeoutExpired):
        search.driver.wait(60)
    interrupt(search)

    def back() -> None:
        if search.run.exists():
            shutil.rmtree(search.run)
        away.rename(search.run)

    search.before_resume = back


def fill_disk(search: Search) -> None:
    """The disk gets full, until the user makes room."""
    filler = search.run.with_name("filler")
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    search.before_resume = filler.unlink


def make_read_only(search: Search) -> None:
    """The file system becomes read-only, until the user mends it."""
    storage = search.run.parent
    # Over itself: a file system with a file open for writing can't be made read-only.
    for command in (["--bind", storage, storage], ["-o", "remount,bind,ro", storage]):
        subprocess.run(["mount", *command], check=True)
    search.before_resume = lambda: subprocess.run(["umount", "-l", storage], check=True)


def truncate_ledger(search: Search) -> None:
    """kill -9, and a crash of the machine that cuts the last line short."""
    kill_everything(search)

    def cut() -> None:
        with (search.run / "ledger.jsonl").open("ab") as file:
            file.write(b'{"event": "report", "trial": 0, "ep')

    search.before_resume = cut


def corrupt_checkpoint(search: Search) -> None:
    """kill -9, and checkpoints that a crash of the machine has left damaged."""
    kill_everything(search)

    def corrupt() -> None:
        for path in (search.run / "checkpoints").glob("*/last.safetensors"):
            content = path.read_bytes()
            path.write_bytes(content[: search.rng.randrange(len(content))])

    search.before_resume = corrupt


def corrupt_data(search: Search) -> None:
    """Data that is damaged while it's not in use: refused, until it's there again."""
    kill_everything(search)

    def corrupt_and_mend() -> None:
        path = search.rng.choice(sorted(search.data_dir.rglob("*.npy")))
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        refused = resume(search)
        if refused.returncode == 0 or "Traceback" in refused.stderr:
            raise LostError(f"damaged data was not refused: {refused.stderr[-500:]}")
        path.write_bytes(content)

    search.before_resume = corrupt_and_mend


def diverge(_search: Search) -> None:
    """Half of the trials give what isn't a number; nothing else is done."""


class Fault(NamedTuple):
    """What is done to a search, its space, whether on a disk of its own, and its lanes."""

    hurt: Callable[[Search], None]
    space: str = _SPACE
    own_disk: bool = False
    lanes: int = 1


FAULTS: Mapping[str, Fault] = {
    "kill -9 of a trial": Fault(kill_trial),
    "kill -9 of the raylet": Fault(kill_raylet),
    "kill -9 of the driver": Fault(kill_driver),
    "kill -9 of everything": Fault(kill_everything),
    "kill -9 of the worker server": Fault(kill_worker_server),
    "kill -9 of the engines": Fault(kill_engine, lanes=3),
    "kill -9 of a trial in a lane": Fault(kill_trial, lanes=3),
    "kill -9 of everything with lanes": Fault(kill_everything, lanes=3),
    "SIGINT with lanes": Fault(interrupt, lanes=3),
    "trials diverge in lanes": Fault(diverge, _DIVERGING, lanes=3),
    "SIGINT": Fault(interrupt),
    "SIGTERM": Fault(terminate),
    "a trial hangs": Fault(hang),
    "a trial runs out of memory": Fault(out_of_memory),
    "trials raise": Fault(raise_in_trial),
    "trials diverge": Fault(diverge, _DIVERGING),
    "the run directory vanishes": Fault(vanish),
    "a full disk": Fault(fill_disk, own_disk=True),
    "a read-only disk": Fault(make_read_only, own_disk=True),
    "a torn ledger line": Fault(truncate_ledger),
    "damaged checkpoints": Fault(corrupt_checkpoint),
    "damaged data": Fault(corrupt_data),
}
