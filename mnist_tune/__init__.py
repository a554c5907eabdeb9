"""mnist-tune: the best learning rate and beta tonight, for a small CNN on MNIST.

    from mnist_tune import search, train

``search`` is ``searching.search``, ``train`` is ``training_run.train``; both are imported when
they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_tune.searching import resume, search
    from mnist_tune.training_run import replay, train

__all__ = ["replay", "resume", "search", "train"]

_HOMES = {
    "replay": "mnist_tune.training_run",
    "resume": "mnist_tune.searching",
    "search": "mnist_tune.searching",
    "train": "mnist_tune.training_run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
