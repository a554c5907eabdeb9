"""Which signals end a search, and when they must not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end a search as Ctrl-C does; what nohup ignores stays ignored."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled(lambda before: before if before is signal.SIG_IGN else interrupt):
        yield


@contextmanager
def uninterruptible() -> Iterator[None]:
    """Lets a clean-up come to its end, however often Ctrl-C is pressed."""
    with _handled(lambda _before: signal.SIG_IGN):
        yield


@contextmanager
def _handled(handler: Callable[[Any], Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, old in before.items():
        signal.signal(number, handler(old))
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
