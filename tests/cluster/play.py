"""The play: a search on three hosts, one of which loses its power and another its network.

What must then hold is what ``tests.chaos`` asks of every search that was hurt, and that trials ran
on every host, went on elsewhere, never imported TensorFlow, and that nothing is left in the end.
"""

from __future__ import annotations

import csv
import functools
import json
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from mnist_tune import ledger
from tests.chaos import check
from tests.chaos_faults import LostError
from tests.cluster.hosts import (
    HEAD,
    LAPTOP,
    SHARED,
    WORKERS,
    address,
    entering,
    execute,
    link,
    power_off,
)
from tests.processes import events, wait_until

ROOT = Path(__file__).resolve().parents[2]
TRIALS, EPOCHS = 12, 48
POWERLESS, CUT_OFF = WORKERS

_CLUSTER = "clusters/local.yaml"
_SPACE = """
parameters:
  learning_rate: {distribution: loguniform, low: 1.0e-3, high: 0.05}
  beta: {distribution: uniform, low: 0.0, high: 0.9}
"""
_NOT_OURS = {".git", ".venv", "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
_LIMIT_S = 600  # for what takes a minute at most on an idle machine
_LOOK_EVERY_S = 0.5  # looking takes CPU time from the hosts


class Row(NamedTuple):
    """A line of the table: what came about, when, and what is to be said of it."""

    what: str
    took_s: float
    detail: str = ""


Tell = Callable[[Row], None]
Said = Callable[..., None]
Driver = subprocess.Popen[bytes]


def play(directory: Path, tell: Tell) -> None:
    """Plays it on hosts that are up.

    Args:
        directory: of the hosts.
        tell: is called with every line of the table as it comes about.

    Raises:
        AssertionError: what must hold doesn't.
    """
    run = directory / "shared" / "runs" / "play"
    furnish_laptop(directory)
    began_s = time.monotonic()

    def said(
        what: str, detail: str = "", since_s: float = began_s, took_s: float | None = None
    ) -> None:
        tell(Row(what, time.monotonic() - since_s if took_s is None else took_s, detail))

    at_laptop(directory, f"ray up -y {_CLUSTER}")
    said("ray up has returned")
    nodes = _wait(lambda: (found := alive(directory)) and len(found) == 3 and found, "3 nodes")
    said("3 nodes have joined")
    with searching(directory) as driver:
        _wait(lambda: placed(run), "a report", driver)
        said("first report of a trial")
        _wait(lambda: set(placed(run).values()) == set(nodes.values()), "3 nodes used", driver)
        said("trials on all nodes", spread(run, nodes))
        _no_tensorflow(directory)
        _wait(lambda: in_the_middle(run, nodes), "trials in the middle on both workers", driver)
        known = ledger.read(run / "ledger.jsonl")
        nodes |= hurt(directory, run, driver, nodes, said)
        driver.wait(_LIMIT_S)
        said("the search has ended", spread(run, nodes))
    output = (directory / "search.log").read_text()
    _hold(driver.returncode == 0, f"the search exited with {driver.returncode}: {output[-800:]}")
    check(run, known)
    check_table(run)
    said("nothing is lost, best.yaml is right")
    down_s = time.monotonic()
    at_laptop(directory, f"ray down -y {_CLUSTER}")
    for host in (HEAD, CUT_OFF):
        _wait(lambda host=host: not _ray(directory, host), f"no Ray on {host}")
    said("ray down, and no process of Ray on any host", since_s=down_s)


def hurt(
    directory: Path, run: Path, driver: Driver, nodes: Mapping[str, str], said: Said
) -> dict[str, str]:
    """Takes the power of a worker and the network of the other, which gets it back.

    Returns:
        The node that the other is from then on.
    """
    moving = {host: running_on(run, nodes[host], EPOCHS // 2) for host in WORKERS}
    hurt_s, hurt_at = time.monotonic(), time.time()
    power_off(directory, POWERLESS)
    link(directory, CUT_OFF, "down")
    said(f"{POWERLESS} loses its power", f"trials there: {_names(moving[POWERLESS])}")
    said(f"{CUT_OFF} is cut off the network", f"trials there: {_names(moving[CUT_OFF])}")
    _wait(lambda: set(alive(directory)) == {HEAD}, "Ray gives both up", driver)
    said("Ray has given both up", since_s=hurt_s)
    link(directory, CUT_OFF, "up")
    plugged_s = time.monotonic()
    again = _wait(lambda: alive(directory).get(CUT_OFF), f"{CUT_OFF} back")
    said(f"{CUT_OFF} is back", since_s=plugged_s)
    for host in WORKERS:
        at = functools.partial(moved_at, run, nodes[host], moving[host])
        took_s = _wait(at, f"{host}'s trials elsewhere", driver) - hurt_at
        said(f"{host}'s trials have gone on elsewhere", spread(run, nodes), took_s=took_s)
    return {f"{CUT_OFF} again": again}


def furnish_laptop(directory: Path) -> None:
    """Gives the laptop a token and this repository, with the cluster's file edited."""
    clone = directory / LAPTOP / "root" / "mnist-tune"
    shutil.copytree(ROOT, clone, ignore=lambda _, names: _NOT_OURS.intersection(names))
    yaml = YAML()
    content = yaml.load(clone / _CLUSTER)
    edit(content)
    yaml.dump(content, clone / _CLUSTER)
    (directory / "shared" / "space.yaml").write_text(_SPACE)
    at_laptop(directory, "ray get-auth-token --generate")


def edit(content: dict[str, Any]) -> None:
    """Edits the cluster's file as its user would: hosts, user, nothing to install, small nodes."""
    content["provider"]["head_ip"] = address(HEAD)
    content["provider"]["worker_ips"] = [address(host) for host in WORKERS]
    content["auth"]["ssh_user"] = "root"
    installing = [line for line in content["setup_commands"] if "venv/bin/uv" in line]
    for line in installing:
        content["setup_commands"].remove(line)
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        small = "ray start --num-cpus=2 --object-store-memory=200000000 "
        content[commands][-1] = content[commands][-1].replace("ray start ", small)


def at_laptop(directory: Path, command: str) -> str:
    """Runs a command in the repository on the laptop, to its end; returns what it printed.

    Raises:
        LostError: it failed.
    """
    done = execute(directory, LAPTOP, f"cd mnist-tune && {command}", _LIMIT_S)
    _hold(done.returncode == 0, f"{command}: {done.stdout[-800:]}{done.stderr[-800:]}")
    return done.stdout


@contextmanager
def searching(directory: Path) -> Iterator[Driver]:
    """The search, on the cluster's head, for the time of a ``with``."""
    search = (
        f"mnist-tune search --address auto --storage-path {SHARED}/runs --name play "
        f"--space {SHARED}/space.yaml --dataset digits --num-samples {TRIALS} "
        f"--max-epochs {EPOCHS} --scheduler fifo"
    )
    command = f"cd mnist-tune && ray exec {_CLUSTER} '{search}'"
    with (
        (directory / "search.log").open("wb") as log,
        subprocess.Popen(
            entering(directory, LAPTOP, command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as driver,
    ):
        try:
            yield driver
        finally:
            driver.kill()


def alive(directory: Path) -> Mapping[str, str]:
    """Host → Ray's id of it, of those that Ray holds for alive."""
    listed = execute(directory, HEAD, "ray list nodes --filter state=ALIVE --format json")
    try:
        nodes = {node["node_ip"]: node["node_id"] for node in json.loads(listed.stdout)}
    except ValueError:
        return {}
    hosts = (HEAD, *WORKERS)
    return {host: nodes[address(host)] for host in hosts if address(host) in nodes}


def placed(run: Path) -> dict[int, str]:
    """Trial → the node of its last report."""
    return {event["trial"]: event["node"] for event in events(run, "report")}


def running_on(run: Path, node: str, epochs: int) -> set[int]:
    """The trials whose last report is from a node and of at most so many epochs."""
    done = Counter(event["trial"] for event in events(run, "report"))
    return {trial for trial, at in placed(run).items() if at == node and done[trial] <= epochs}


def in_the_middle(run: Path, nodes: Mapping[str, str]) -> bool:
    """Whether trials have ended, and on both workers there are some that are far from it."""
    ended = sum(event["decision"] == "stop" for event in events(run, "report"))
    return ended >= 2 and all(running_on(run, nodes[host], EPOCHS // 2) for host in WORKERS)


def moved_at(run: Path, node: str, trials: set[int]) -> float | None:
    """When the last of some trials that ran on a node reported from elsewhere; None: not yet."""
    first: dict[int, float] = {}
    for event in events(run, "report"):
        if event["node"] == node:
            first.pop(event["trial"], None)
        elif event["trial"] in trials:
            first.setdefault(event["trial"], event["time"])
    return max(first.values()) if first.keys() == trials else None


def _wait(condition: Callable[[], Any], what: str, driver: Driver | None = None) -> Any:
    """Waits for a condition to give something true and returns it; the search may not end first."""

    def look() -> Any:
        ended = driver is not None and driver.poll() is not None
        if not (found := condition()):
            _hold(not ended, f"the search ended before there was: {what}")
            time.sleep(_LOOK_EVERY_S)
        return found

    return wait_until(look, _LIMIT_S, what)


def spread(run: Path, nodes: Mapping[str, str]) -> str:
    """Which node each trial is on, as words."""
    where = placed(run)
    return "; ".join(
        f"{host} ({node[:8]}): {_names({trial for trial in where if where[trial] == node})}"
        for host, node in nodes.items()
    )


def _names(trials: set[int]) -> str:
    return " ".join(str(trial) for trial in sorted(trials)) or "none"


def _no_tensorflow(directory: Path) -> None:
    """Checks that no process has TensorFlow in its memory, and that it would be seen."""
    for host in (HEAD, *WORKERS):
        mapped = execute(directory, host, "cat /proc/[0-9]*/maps").stdout
        _hold("/jaxlib/" in mapped, f"{host}: no process has JAX")
        _hold("/tensorflow/" not in mapped, f"{host}: a process has imported TensorFlow")


def check_table(run: Path) -> None:
    """Checks that all trials are in trials.csv to their end, and that best.yaml has their best."""
    with (run / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    statuses = Counter(row["status"] for row in rows)
    _hold(statuses == {"completed": TRIALS}, f"trials.csv has {dict(statuses)}")
    best = YAML(typ="safe").load(run / "best.yaml")["validation"]["accuracy"]
    highest = max(float(row["best_accuracy"]) for row in rows)
    _hold(best == highest, f"best.yaml has {best}, trials.csv {highest}")


def _ray(directory: Path, host: str) -> bool:
    listed = execute(directory, host, "ps -eo args").stdout
    return any(word in listed for word in ("ray::", "/raylet", "/gcs_server", "/ray/"))


def _hold(condition: bool, what: str) -> None:
    if not condition:
        raise LostError(what)
