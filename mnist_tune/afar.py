"""A search driven on a cluster's head for a person elsewhere: ``--address ray://HOST:PORT``.

What is asked and the data go to the head through Ray's client; the search runs there as it does
with ``--address auto``, in a task of Ray's, and its events come back to be shown.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mnist_tune import devices
from mnist_tune.cluster import from_worker, ray_session
from mnist_tune.errors import ConfigError, InterruptedSearch, SearchError
from mnist_tune.experiment import (
    Experiment,
    open_experiment,
    resume_command,
)
from mnist_tune.options import SearchOptions
from mnist_tune.places import Place, checked_uri, is_uri, with_endpoint
from mnist_tune.preflight import NodeReport
from mnist_tune.signals import interruptible, uninterruptible
from mnist_tune.slots import Say
from mnist_tune.space import Space

if TYPE_CHECKING:
    from mnist_tune.datasets import Dataset
    from mnist_tune.driver import Show

_LOOK_EVERY_S = 0.5
_END_WITHIN_S = 60.0


class Search(NamedTuple):
    """What is asked of a new search; see ``searching.search``."""

    space: Space
    options: SearchOptions
    name: str | None
    storage: str | None


def is_far(address: str | None) -> bool:
    """Whether a cluster is one that this process is no part of."""
    return address is not None and address.startswith("ray://")


def search_there(
    work: Search, load: Callable[[], Dataset], verbose: bool, show: Show | None, say: Say
) -> Experiment:
    """Has a search run on a cluster's head; as ``searching.search``."""
    address = str(work.options.address)
    work = work._replace(
        options=replace(work.options, address="auto"), storage=far_storage(work.storage)
    )
    with _head(address, verbose) as run:
        return opened(run("drive_search", (work,), load(), show, say))


def resume_there(
    run: str, storage: str | None, address: str, verbose: bool, show: Show | None, say: Say
) -> Experiment:
    """Has a search go on on a cluster's head; as ``searching.resume``."""
    from mnist_tune.searching import dataset_for

    storage = far_storage(storage)
    with _head(address, verbose) as there:
        seen = opened(there("look_up", (run, storage), None, None, say))
        data = None if seen.results.ended == "done" else dataset_for(seen.options)
        return opened(there("drive_resume", (run, storage), data, show, say))


def try_nodes_there(address: str, storage: str | None, verbose: bool) -> list[NodeReport]:
    """Has the head of a cluster try its nodes; as ``diagnosis.diagnose_cluster``."""
    with _head(address, verbose) as there:
        found = there("drive_doctor", (far_storage(storage),), None, None, lambda _line: None)
        reports: list[NodeReport] = found["reports"]
        return reports


def far_storage(given: str | None) -> str | None:
    """The directory for runs as another machine finds it; None: that machine's own default.

    Raises:
        ConfigError: it's relative, or not a URI that can be.
    """
    own = os.environ.get("MNIST_TUNE_STORAGE", "")
    given = given or (own if is_uri(own) else None)
    if given is None or given.startswith(("/", "~")):
        return given
    if is_uri(given):
        return str(with_endpoint(checked_uri(given)))
    raise ConfigError(
        f"--storage-path must begin with / or ~ with --address ray://, as it's a directory of "
        f"the cluster; got {given!r}"
    )


def opened(copied: dict[str, Any]) -> Experiment:
    """A run of the cluster, from a copy of its files that stays until this process ends."""
    directory = Path(tempfile.mkdtemp(prefix="mnist-tune-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    for name, content in copied["files"].items():
        (directory / name).write_bytes(content)
    place: Place = copied["place"] if is_uri(copied["place"]) else Path(copied["place"])
    return replace(open_experiment(directory), place=place, copy=directory)


@contextmanager
def _head(address: str, verbose: bool) -> Iterator[Callable[..., dict[str, Any]]]:
    """Gives what runs a function of on_head.py on the head of a cluster."""
    with interruptible(), ray_session(address, verbose) as connect:
        connect()
        import ray
        from ray.util.queue import Queue

        # A worker's node can be lost, and the search goes on.
        on_head = {"num_cpus": 0, "scheduling_strategy": _head_node()}
        messages = Queue(actor_options=on_head)

        def run(
            function: str, arguments: tuple[Any, ...], data: Any, show: Show | None, say: Say
        ) -> dict[str, Any]:
            task = _on_head(function, messages, arguments, ray.put(data), on_head)
            seen: list[Experiment] = []
            try:
                while not ray.wait([task], timeout=0)[0]:
                    _show_all(messages, seen, show, say)
                _show_all(messages, seen, show, say)
                return _result(task, address)
            except KeyboardInterrupt:
                with uninterruptible():
                    ray.cancel(task)
                    ray.wait([task], timeout=_END_WITHIN_S)
                raise InterruptedSearch(f"interrupted; {_so_far(seen, address)}") from None
            except (ray.exceptions.RayError, ConnectionError) as error:
                said = str(error).strip().splitlines()[-1]
                raise SearchError(
                    f"the connection to {address} was lost: {said}\n{_so_far(seen, address)}"
                ) from None

        yield run


def _so_far(seen: list[Experiment], address: str) -> str:
    if not seen:
        return "it had not begun"
    place = seen[0].place
    return (
        f"what it has so far is on the cluster, in {place}\n"
        f"go on with: {resume_command(place)} --address {address}"
    )


def _head_node() -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    heads = [node for node in ray.nodes() if node["Resources"].get("node:__internal_head__")]
    return NodeAffinitySchedulingStrategy(heads[0]["NodeID"], soft=False)


def _on_head(
    function: str,
    messages: Any,
    arguments: tuple[Any, ...],
    data: Any,
    on_head: dict[str, Any],
) -> Any:
    import ray

    ours = devices.versions()["mnist-tune"]

    # Inside a function, so that Ray takes its code along: mnist_tune may not be there.
    def there(data: Any) -> Any:
        from importlib import import_module
        from importlib.metadata import PackageNotFoundError, version

        try:
            theirs = version("mnist-tune")
        except PackageNotFoundError:
            theirs = "none"
        if theirs != ours:
            return {"other": theirs}
        drive = getattr(import_module("mnist_tune.on_head"), function)
        return drive(lambda kind, value: messages.put((kind, value)), *arguments, data)

    return ray.remote(max_retries=0, **on_head)(there).remote(data)


def _show_all(messages: Any, seen: list[Experiment], show: Show | None, say: Say) -> None:
    from ray.util.queue import Empty

    while True:
        try:
            kind, value = messages.get(timeout=_LOOK_EVERY_S)
        except Empty:
            return
        if kind == "line":
            say(value)
        elif kind == "run":
            seen.append(opened(value))
        elif seen:
            if kind == "event":
                seen[0].results.apply(value)
            if show:
                show(seen[0], value)


def _result(task: Any, address: str) -> dict[str, Any]:
    import ray

    try:
        result: dict[str, Any] = ray.get(task)
    except ray.exceptions.RayError as error:
        raise from_worker(error, f"the search on the cluster at {address} broke off") from None
    if "other" in result:
        raise SearchError(
            f"the head of the cluster at {address} has mnist-tune {result['other']}, this is "
            f"{devices.versions()['mnist-tune']}; install the same on both"
        )
    return result
