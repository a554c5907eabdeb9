"""A few rounds of ``python -m tests.chaos``; and that it would see what is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from examples import error, finished_run, report

from mnist_tune import ledger
from tests.chaos import check, play
from tests.chaos_faults import FAULTS, LostError, can_mount
from tests.processes import events


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["kill -9 of the raylet", "kill -9 of the engines", "damaged checkpoints", "a full disk"],
)
def test_nothing_is_lost(name: str) -> None:
    if FAULTS[name].own_disk and not can_mount():
        pytest.skip("no file system can be mounted here")
    assert play(FAULTS[name], seed=7) <= 2


def test_a_lost_report_is_seen(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run").path
    known = ledger.read(run / "ledger.jsonl")
    lines = (run / "ledger.jsonl").read_text().splitlines(keepends=True)
    (run / "ledger.jsonl").write_text("".join(lines[:-2] + lines[-1:]))
    with pytest.raises(LostError, match="lost what was in it"):
        check(run, known)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (report(0, 3, 0.85, 0.3), "epoch 3 out of order"),
        (report(1, 2, 0.1), "epoch 2 after its end"),
    ],
)
def test_a_wrong_event_is_seen(event: ledger.Event, said: str, tmp_path: Path) -> None:
    experiment = finished_run(tmp_path / "run", max_epochs=3)
    known = ledger.read(experiment.path / "ledger.jsonl")
    ledger.append(experiment.path / "ledger.jsonl", [error(2), event])
    with pytest.raises(LostError, match=said):
        check(experiment.path, known)


def test_a_wrong_decision_is_seen(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", max_epochs=3).path
    ledger_path = run / "ledger.jsonl"
    content = ledger_path.read_text()
    ledger_path.write_text(content.replace('"continue"', '"stop"', 1))
    with pytest.raises(LostError, match="wrong decision"):
        check(run, [])


def test_other_numbers_than_without_the_fault_are_seen(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", max_epochs=3).path
    unhurt = {
        (event["trial"], event["epoch"]): (event["accuracy"], event["loss"])
        for event in events(run, "report")
    }
    unhurt[0, 2] = (0.91, 0.4)
    with pytest.raises(LostError, match="is not what training gives"):
        check(run, [], unhurt)


def test_a_best_that_is_not_the_best_is_seen(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", max_epochs=3).path
    best = (run / "best.yaml").read_text()
    (run / "best.yaml").write_text(best.replace("accuracy: 0.9\n", "accuracy: 0.85\n"))
    with pytest.raises(LostError, match=r"best\.yaml is not the best"):
        check(run, [])
