"""ASHA's promotion as a Ray Tune searcher: what a free slot does next is decided here."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from ray.tune.search import Searcher

from mnist_tune.ledger import Event
from mnist_tune.listed import ListedConfigs
from mnist_tune.rungs import Rungs


class Promotions(Searcher):  # type: ignore[misc]
    """Suggests the trial to be promoted next; if there is none, a new one: the paper's get_job.

    The trial goes on from its own checkpoint. A promotion is recorded before it's suggested.

    Args:
        configs: trial → what ``suggest`` returns for it.
        begun: trials that an earlier driver had running; they come first.
        new: trials that have not begun, in order.
        rungs: the bookkeeping, shared with the scheduler.
        slots: trials at a time: none is chosen ahead of a free slot.
        record: writes an event down; when it returns, the event can't be lost.
    """

    def __init__(
        self,
        configs: list[dict[str, Any]],
        begun: Iterable[int],
        new: Iterable[int],
        rungs: Rungs,
        slots: int,
        record: Callable[[Event], None],
    ) -> None:
        super().__init__()
        self._configs, self._rungs = configs, rungs
        self._begun, self._new = deque(begun), deque(new)
        self._slots, self._record = slots, record
        self._live: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Returns a configuration, None for not now, or that the search is over."""
        if len(self._live) >= self._slots:
            return None
        number = self._next()
        if number is None:
            # What runs can still make a trial one of the best of its rung.
            return None if self._live else str(Searcher.FINISHED)
        self._live.add(trial_id)
        return self._configs[number]

    def _next(self) -> int | None:
        if self._begun:
            return self._begun.popleft()
        promotion = self._rungs.next_promotion()
        if promotion:
            now = round(time.time(), 3)
            self._record({"event": "promote", "time": now, **promotion._asdict()})
            self._rungs.promote(promotion)
            return promotion.trial
        return self._new.popleft() if self._new else None

    def on_trial_complete(
        self,
        trial_id: str,
        result: Any = None,  # noqa: ARG002
        error: bool = False,  # noqa: ARG002
    ) -> None:
        """Learns that a slot is free; the scheduler has the results."""
        self._live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Leaves nothing for Ray's restore: the ledger is what a search resumes from."""

    def restore(self, checkpoint_path: str) -> None:
        """Is never called; see ``save``."""

    def __reduce__(self) -> tuple[type[Searcher], tuple[list[Any]]]:
        """Ray pickles its searchers for a restore that mnist-tune doesn't use."""
        return ListedConfigs, ([],)
