"""Warm processes for trials that have none: a start that is under way isn't thrown away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


@contextmanager
def warm_starts() -> Iterator[None]:
    """Has a process whose trial has ended go to the first trial for which none is being started.

    Tune gives it to the trial that has waited longest, which is the one whose own process has been
    starting longest, and removes that process. While trials end sooner than processes start, most
    slots of a cluster stay empty. The version of Ray is held within a minor release.
    """
    from ray.tune.execution.tune_controller import TuneController

    reuse = TuneController._maybe_reuse_cached_actor

    def reused(controller: Any, trial: Any) -> bool:
        request = trial.placement_group_factory
        if not controller._actor_cache.has_cached_object(request):
            return bool(reuse(controller, trial))
        # Where each has one that starts, nothing else waits: the search ends soon.
        first = next((each for each in controller._trials if _waits(controller, each)), trial)
        return bool(reuse(controller, first)) and first is trial

    with patch.object(TuneController, reuse.__name__, reused):
        yield


def _waits(controller: Any, trial: Any) -> bool:
    if trial not in controller._pending_trials or trial in controller._resetting_trials:
        return False
    actor = controller._trial_to_actor.get(trial)
    # Ray's manager calls an actor live from when it has resources.
    return actor not in controller._actor_manager._live_actors_to_ray_actors_resources
