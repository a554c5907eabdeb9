"""Signals that end a search, and those that don't."""

from __future__ import annotations

import os
import signal

import pytest

from mnist_tune.signals import interruptible, uninterruptible

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_interrupts_and_the_handler_is_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_clean_up_comes_to_its_end(number: signal.Signals) -> None:
    reached = False
    with interruptible(), uninterruptible():
        os.kill(os.getpid(), number)
        reached = True
    assert reached


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
