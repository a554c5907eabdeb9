"""A Ray Tune searcher that hands out configurations drawn beforehand."""

from __future__ import annotations

from typing import Any

from ray.tune.search import Searcher


class ListedConfigs(Searcher):  # type: ignore[misc]
    """Suggests each configuration of a list once, in order.

    Drawing them all before the first trial makes them independent of the order in which trials
    finish, and so of the number of workers.

    Args:
        configs: what ``suggest`` returns, one after the other.
    """

    def __init__(self, configs: list[dict[str, Any]]) -> None:
        super().__init__()
        self._configs = configs
        self._next = 0

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # noqa: ARG002
        """Returns the next configuration, or that there are no more."""
        if self._next == len(self._configs):
            return str(Searcher.FINISHED)
        self._next += 1
        return self._configs[self._next - 1]

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Learns nothing from results."""

    def save(self, checkpoint_path: str) -> None:
        """Leaves nothing for Ray's restore: the ledger is what a search resumes from."""

    def restore(self, checkpoint_path: str) -> None:
        """Is never called; see ``save``."""
