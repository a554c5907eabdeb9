"""Ray, started for one search on this machine or joined where it already runs."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

from mnist_tune import local_ray
from mnist_tune.errors import MnistTuneError, SearchError
from mnist_tune.signals import uninterruptible

# Read by Ray when it's imported. Its loggers halve what a driver can take; its experiment
# snapshots serve a restore that we don't use; its output is replaced by ours.
_RAY_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Else the driver can't connect before all workers have, and stands still meanwhile, in the
    # middle of its imports.
    "RAY_prestart_worker_first_driver": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",
}


@contextmanager
def ray_session(
    address: str | None,
    verbose: bool,
    check: Callable[[], object] = lambda: None,
    *,
    light: bool = False,
) -> Iterator[Callable[[], None]]:
    """Ray for the time of a ``with``: a cluster's, or one of our own that ends with it.

    Ray takes seconds to start, most of them waiting. It starts in the background; what the
    ``with`` gives is called before the first use of Ray, and raises SearchError if it failed.

    Args:
        address: of the cluster; None: Ray is started on this machine.
        verbose: let Ray speak.
        check: is called when Ray has been imported and not yet been started.
        light: most workers of this machine need no JAX.
    """
    with patch.dict(os.environ), _logging(verbose) as level:
        _set_environment()
        with _session(address, level, verbose, check, light) as connect:
            yield connect


@contextmanager
def _logging(verbose: bool) -> Iterator[int]:
    """Lets Ray say nothing unless it's to be verbose, while it runs."""
    logger = logging.getLogger("ray")
    before, level = logger.level, logging.INFO if verbose else logging.CRITICAL
    logger.setLevel(level)
    try:
        yield level
    finally:
        logger.setLevel(before)


@contextmanager
def _session(
    address: str | None, level: int, verbose: bool, check: Callable[[], object], light: bool
) -> Iterator[Callable[[], None]]:
    # Ray announces a change of a default that only matters to code that sees CUDA devices.
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    # JAX, where this process has trained before, warns of a fork; Ray's processes exec at once.
    warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        check()
        with _placement_groups_removed():
            yield lambda: None
        return
    stack = ExitStack()
    try:
        yield _start(address, level, verbose, check, light, stack)
    finally:
        with uninterruptible():
            stack.close()


def _start(
    address: str | None,
    level: int,
    verbose: bool,
    check: Callable[[], object],
    light: bool,
    stack: ExitStack,
) -> Callable[[], None]:
    """Has Ray started in the background; how it's ended goes on the stack."""
    if collecting := gc.isenabled():
        # All that is imported stays: looking for garbage meanwhile takes half a second.
        gc.disable()
        stack.callback(gc.enable)
    directory = ""
    if not address:
        directory = tempfile.mkdtemp(prefix="mnist-tune-", dir=_short_tmp())
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        if sys.platform == "linux":
            # Elsewhere a fork of a process with so much in it can't be relied on.
            stack.enter_context(local_ray.worker_server(directory, light))
    import ray

    # What ray.init imports, imported here: two threads that import at once can meet half-made
    # modules.
    import ray.autoscaler._private.util
    import ray.autoscaler.v2.utils
    import ray.dashboard

    check()
    if not address:
        stack.enter_context(local_ray.own_token())
    elif _has_token():
        # A head asks for it as soon as the file is there; Ray's clients want to be told. To a
        # cluster that doesn't ask, it makes no difference.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        local_ray.read_token_again()
    if address:
        stack.callback(ray.shutdown)

        def joined() -> None:
            # Here and now: a Ctrl-C must end it.
            _connect(address, directory, level, verbose)
            if collecting:
                gc.enable()

        return joined
    # Ray's processes end with the thread that started them.
    background = stack.enter_context(ThreadPoolExecutor(1))
    stack.callback(ray.shutdown)
    starting = background.submit(_connect, address, directory, level, verbose)
    stack.callback(wait, [starting])

    def connected() -> None:
        stack.enter_context(local_ray.one_environment())
        starting.result()
        if collecting:
            gc.enable()

    return connected


def _connect(address: str | None, directory: str, level: int, verbose: bool) -> None:
    import ray

    try:
        if address:
            _probe(address)
            ray.init(address=address, logging_level=level, log_to_driver=verbose)
        else:
            local_ray.start(directory, level, verbose)
    except SearchError:
        raise
    except Exception as error:
        if not address:
            raise SearchError(f"Ray on this machine could not be started: {error}") from error
        hint = (
            "; is ~/.ray/auth_token the cluster's?"
            if _has_token()
            else "; if it asks for a token, put that in ~/.ray/auth_token"
        )
        raise SearchError(
            f"the Ray cluster at {address} could not be joined: {error}{hint}"
        ) from error
    # Tune adds a handler of its own to its loggers, at their own level.
    for name in ("ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(level)


def from_worker(error: Exception, what: str) -> MnistTuneError:
    """The error to raise for one of Ray's tasks: our own if it raised one, else its last line."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, MnistTuneError):
        return cause
    return SearchError(f"{what}: {str(cause or error).strip().splitlines()[-1]}")


def _has_token() -> bool:
    """Whether this user has a token for Ray clusters where Ray looks for one."""
    given = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    return given or (Path.home() / ".ray" / "auth_token").is_file()


def _probe(address: str) -> None:
    """Tries the port of [ray://]HOST:PORT: Ray would go on trying for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise SearchError(f"the Ray cluster at {address} could not be reached: {error}") from None


@contextmanager
def _placement_groups_removed() -> Iterator[None]:
    """Frees what Tune has reserved if a search is left in the middle; the Ray isn't ours to end."""
    import ray
    from ray._raylet import PlacementGroupID
    from ray.util import placement_group_table, remove_placement_group
    from ray.util.placement_group import PlacementGroup

    before = set(placement_group_table())
    # The names of a job's groups end with its own; those of others are theirs.
    job = ray.get_runtime_context().get_job_id()
    try:
        yield
    finally:
        for name, group in placement_group_table().items():
            if name.endswith(job) and name not in before and group["state"] != "REMOVED":
                remove_placement_group(PlacementGroup(PlacementGroupID.from_hex(name)))


def local_gpus() -> int:
    """The GPUs of this machine that Ray would use; starts nothing."""
    _set_environment()
    from ray._private.accelerators import NvidiaGPUAcceleratorManager

    return int(NvidiaGPUAcceleratorManager.get_current_node_num_accelerators())


def _set_environment() -> None:
    """Sets what Ray reads when it's imported."""
    for name, value in _RAY_SETTINGS.items():
        os.environ.setdefault(name, value)


def _short_tmp() -> str | None:
    """A directory whose name leaves room for Ray's socket paths (107 bytes at most)."""
    return None if len(tempfile.gettempdir()) <= 30 else "/tmp"
