"""Whether a cluster's nodes can run a search: each is tried before the first trial starts."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mnist_tune import devices
from mnist_tune.errors import ClusterError
from mnist_tune.options import SearchOptions
from mnist_tune.slots import Node, Say, Slots, cluster_slots, has_room, local_slots, nodes

_ANSWER_WITHIN_S = 120.0
_MARKER = ".mnist-tune-preflight-"


class NodeReport(NamedTuple):
    """What was found on a node; each field but the first is ``ok`` or says what is wrong.

    Attributes:
        node: which.
        versions: against those of this process.
        devices: against what Ray says is there.
        storage: whether it's the one that this process sees.
    """

    node: Node
    versions: str
    devices: str
    storage: str

    @property
    def ok(self) -> bool:
        """Whether a trial can run there."""
        return self[1:] == ("ok", "ok", "ok")

    def findings(self) -> dict[str, str]:
        """All fields but the node."""
        return {name: value for name, value in self._asdict().items() if name != "node"}


def ready_slots(options: SearchOptions, trials: int, storage: Path, say: Say) -> Slots:
    """What each trial gets of the Ray that is connected, when that can run the search.

    Args:
        options: the search's.
        trials: as many as are to run.
        storage: the directory for runs.
        say: is told what is waited for and what is tried.

    Raises:
        ConfigError: no trial could ever start on this machine.
        ClusterError: a node can't run a trial of this search; its message has a table.
    """
    if options.address is None:
        import ray

        there = ray.cluster_resources()
        return local_slots(options, there.get("CPU", 0.0), there.get("GPU", 0.0))
    slots = cluster_slots(options, trials, say)
    with_room = [node for node in nodes() if has_room(slots, node)]
    say(f"{len(with_room)} nodes have room for {slots.count} trials at a time; trying each")
    check_nodes(with_room, storage)
    return slots


def check_nodes(to_try: Sequence[Node], storage: Path) -> None:
    """Tries nodes.

    Raises:
        ClusterError: one isn't fit.
    """
    reports = try_nodes(to_try, storage)
    if not all(report.ok for report in reports):
        raise ClusterError(
            f"the cluster isn't fit for a search in {storage}:\n{table(reports)}\n{advice(reports)}"
        )


def try_nodes(to_try: Sequence[Node], storage: Path) -> list[NodeReport]:
    """Has every node say what it is like; nodes that die meanwhile are left out.

    Args:
        to_try: the nodes.
        storage: the directory for runs; a file is written there and removed again, by this
            process and by each node.
    """
    with _marker(storage) as marker:
        seen = _ask(to_try, marker)
        here = devices.versions()
        return [
            _judge(node, seen[node.node_id], here, marker)
            for node in to_try
            if node.node_id in seen
        ]


def table(reports: Sequence[NodeReport]) -> str:
    """The reports as text, a line a node."""
    rows = [("node", "host", "CPUs", "GPUs", "versions", "devices", "storage")]
    rows += [
        (r.node.address, r.node.host, f"{r.node.cpus:g}", f"{r.node.gpus:g}", *r[1:])
        for r in reports
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def advice(reports: Sequence[NodeReport]) -> str:
    """What to do about what is wrong, a line for each kind."""
    kinds = {
        "versions": "install the same versions on all nodes: uv sync --locked in the same clone",
        "devices": "install JAX for GPUs there (--extra cuda), or --gpus-per-trial 0",
        "storage": "--storage-path must be a directory that all nodes share, such as NFS's",
    }
    return "\n".join(
        f"{kind}: {remedy}"
        for kind, remedy in kinds.items()
        if any(getattr(report, kind) != "ok" for report in reports)
    )


def look(answer: Path, gpus: bool) -> dict[str, Any]:
    """What a node is like; runs there.

    Args:
        answer: the file to write, beside one that the driver has written.
        gpus: have JAX look for GPUs.

    Returns:
        ``versions``; ``gpus``, how many JAX sees; ``storage``, ``ok`` or what is wrong.
    """
    return {
        "versions": devices.versions(),
        "gpus": _gpus_of_jax() if gpus else "0",
        "storage": _write(answer),
    }


def _ask(to_try: Sequence[Node], marker: Path) -> dict[str, Any]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Inside a function, so that Ray takes its code along: mnist_tune may not be there.
    def look_there(answer: Path, gpus: bool) -> dict[str, Any]:
        try:
            from mnist_tune.preflight import look
        except ImportError as error:
            return {"missing": str(error)}
        return look(answer, gpus)

    ask = ray.remote(num_cpus=0, max_retries=0)(look_there)
    asked = {
        ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        ).remote(_answer(marker, node), node.gpus > 0): node.node_id
        for node in to_try
    }
    ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_WITHIN_S)
    seen: dict[str, Any] = {}
    for reference, node_id in asked.items():
        try:
            seen[node_id] = ray.get(reference, timeout=0)
        except ray.exceptions.GetTimeoutError:
            seen[node_id] = {"missing": f"no answer within {_ANSWER_WITHIN_S:g} s"}
        except ray.exceptions.RayError as error:
            seen[node_id] = {"missing": str(error).strip().splitlines()[-1]}
    alive = {node.node_id for node in nodes()}
    return {node_id: answer for node_id, answer in seen.items() if node_id in alive}


def _judge(
    node: Node, seen: Mapping[str, Any], here: Mapping[str, str], marker: Path
) -> NodeReport:
    if "missing" in seen:
        return NodeReport(node, seen["missing"], "not tried", "not tried")
    differ = [
        f"{name} {seen['versions'].get(name)} (here {version})"
        for name, version in here.items()
        if seen["versions"].get(name) != version
    ]
    short = node.gpus and seen["gpus"] != str(round(node.gpus))
    storage = seen["storage"]
    if storage == "ok" and not _answer(marker, node).exists():
        storage = "not shared: what is written there isn't seen here"
    return NodeReport(
        node,
        ", ".join(differ) or "ok",
        f"JAX sees {seen['gpus']} GPUs" if short else "ok",
        storage,
    )


@contextmanager
def _marker(storage: Path) -> Iterator[Path]:
    """A new file of a name that was never there, so that no file system remembers it."""
    storage.mkdir(parents=True, exist_ok=True)
    marker = storage / f"{_MARKER}{secrets.token_hex(8)}"
    marker.write_text(marker.name)
    try:
        yield marker
    finally:
        for written in storage.glob(f"{marker.name}*"):
            written.unlink(missing_ok=True)


def _answer(marker: Path, node: Node) -> Path:
    return marker.with_suffix(f".{node.node_id}")


def _write(answer: Path) -> str:
    try:
        if not answer.with_suffix("").exists():
            return "not shared: what is written here isn't seen there"
        answer.touch()
    except OSError as error:
        return error.strerror or str(error)
    return "ok"


def _gpus_of_jax() -> str:
    """How many GPUs JAX would use on this node, whoever uses them now."""
    code = "import jax; d = jax.devices(); print(len(d) if d[0].platform == 'gpu' else 0)"
    hidden = ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "no"
