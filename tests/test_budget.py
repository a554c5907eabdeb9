"""The end of a search when its time is over."""

from __future__ import annotations

import time

from mnist_tune.budget import time_budget


def test_no_limit() -> None:
    assert time_budget(None) is None


def test_it_ends_when_its_time_is_over() -> None:
    stopper = time_budget(0.2)
    assert stopper is not None
    # No trial is ended by it: the scheduler would not see that trial's report.
    assert stopper("1", {}) is False
    assert not stopper.stop_all()
    time.sleep(0.25)
    assert stopper.stop_all()


def test_not_before_the_first_report() -> None:
    stopper = time_budget(1e-9)
    assert stopper is not None
    assert not stopper.stop_all()
    stopper("1", {})
    assert stopper.stop_all()
