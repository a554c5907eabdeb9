"""Whether a cluster's nodes can run a search: each is tried before the first trial starts."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnist_tune import devices, storage
from mnist_tune.errors import ClusterError, RunError, StorageError
from mnist_tune.options import SearchOptions
from mnist_tune.places import Place, join, with_endpoint
from mnist_tune.slots import Node, Say, Slots, cluster_slots, has_room, local_slots, nodes

_ANSWER_WITHIN_S = 120.0
_NOT_TRIED = "not tried"


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


def ready_slots(options: SearchOptions, trials: int, runs: Place, say: Say) -> Slots:
    """What each trial gets of the Ray that is connected, when that can run the search.

    Args:
        options: the search's.
        trials: as many as are to run.
        runs: the directory for runs, or its URI.
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
    check_nodes(with_room, runs, gpus=slots.gpus > 0)
    return slots


def check_nodes(to_try: Sequence[Node], runs: Place, *, gpus: bool) -> None:
    """Tries nodes.

    Raises:
        ClusterError: one isn't fit.
    """
    reports = try_nodes(to_try, runs, gpus=gpus)
    if not all(report.ok for report in reports):
        raise ClusterError(
            f"the cluster isn't fit for a search in {runs}:\n{table(reports)}\n{advice(reports)}"
        )


def try_nodes(to_try: Sequence[Node], runs: Place, *, gpus: bool) -> list[NodeReport]:
    """Has every node say what it is like; nodes that die meanwhile are left out.

    Args:
        to_try: the nodes.
        runs: the directory for runs, or its URI; a file is written there and removed again, by
            this process and by each node.
        gpus: whether trials are to have GPUs.

    Raises:
        RunError: this process can't write there.
        StorageError: as RunError, of a store.
    """
    # A name that was never there: no file system has it in a cache.
    name = f".mnist-tune-preflight-{secrets.token_hex(8)}"
    marker = join(with_endpoint(runs), name)
    answers = {node.node_id: join(with_endpoint(runs), f"{name}.{node.node_id}") for node in to_try}
    try:
        _write(marker)
    except OSError as error:
        raise RunError(
            f"{runs}: cannot be written ({error.strerror or error}); choose another --storage-path"
        ) from None
    try:
        seen = _ask(to_try, marker, answers, gpus)
        here = devices.versions()
        return [
            _judge(node, seen[node.node_id], here, answers[node.node_id], gpus)
            for node in to_try
            if node.node_id in seen
        ]
    finally:
        for written in (marker, *answers.values()):
            storage.delete(written)


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
        "storage": "--storage-path must be seen by all nodes: NFS's directory, or s3://BUCKET/PREFIX",
    }
    return "\n".join(
        f"{kind}: {remedy}"
        for kind, remedy in kinds.items()
        if any(getattr(report, kind) not in {"ok", _NOT_TRIED} for report in reports)
    )


def look(marker: Place, answer: Place, gpus: bool) -> dict[str, Any]:
    """What a node is like; runs there.

    Args:
        marker: a file that the driver has written.
        answer: the file to write.
        gpus: have JAX look for GPUs.

    Returns:
        ``versions``; ``gpus``, how many JAX sees; ``storage``, ``ok`` or what is wrong.
    """
    return {
        "versions": devices.versions(),
        "gpus": _gpus_of_jax() if gpus else "0",
        "storage": _shared(marker, answer),
    }


def _ask(
    to_try: Sequence[Node], marker: Place, answers: Mapping[str, Place], gpus: bool
) -> dict[str, Any]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Inside a function, so that Ray takes its code along: mnist_tune may not be there.
    def look_there(answer: Place, gpus: bool) -> dict[str, Any]:
        try:
            from mnist_tune.preflight import look
        except ImportError as error:
            return {"missing": str(error)}
        return look(marker, answer, gpus)

    ask = ray.remote(num_cpus=0, max_retries=0)(look_there)
    asked = {
        ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        ).remote(answers[node.node_id], gpus and node.gpus > 0): node.node_id
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
    node: Node, seen: Mapping[str, Any], here: Mapping[str, str], answer: Place, gpus: bool
) -> NodeReport:
    if "missing" in seen:
        return NodeReport(node, seen["missing"], _NOT_TRIED, _NOT_TRIED)
    differ = [
        f"{name} {seen['versions'].get(name)} (here {version})"
        for name, version in here.items()
        if seen["versions"].get(name) != version
    ]
    # More than Ray offers is no fault: Ray can have been given a part of them.
    short = gpus and (not seen["gpus"].isdigit() or int(seen["gpus"]) < node.gpus)
    shared = seen["storage"]
    if shared == "ok" and not storage.exists(answer):
        shared = "not shared: what is written there isn't seen here"
    return NodeReport(
        node,
        ", ".join(differ) or "ok",
        f"JAX sees {seen['gpus']} GPUs" if short else "ok",
        shared,
    )


def _write(place: Place) -> None:
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    else:
        storage.write_bytes(place, b"")


def _shared(marker: Place, answer: Place) -> str:
    try:
        if not storage.exists(marker):
            return "not shared: what is written here isn't seen there"
        _write(answer)
    except StorageError as error:
        return str(error)
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
