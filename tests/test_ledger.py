"""Nothing that was acknowledged is lost, and what is damaged is refused by name and line."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from examples import drawn, end, error, paused, promote, report, session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnist_tune.errors import RunError
from mnist_tune.ledger import append, drop_torn_line, read

NUMBERS = st.floats(-1e300, 1e300)
EVENTS = st.lists(
    st.one_of(
        st.builds(drawn, st.integers(0, 99), learning_rate=st.floats(1e-5, 1.0)),
        st.builds(
            report,
            st.integers(0, 99),
            st.integers(1, 999),
            NUMBERS,
            NUMBERS,
            st.sampled_from(["", "all epochs", "not finite"]),
            NUMBERS,
        ),
        st.builds(paused, st.integers(0, 99), st.integers(1, 999), NUMBERS, NUMBERS),
        st.builds(promote, st.integers(0, 99), st.integers(1, 999)),
        st.builds(error, st.integers(0, 99), st.text()),
        st.builds(session, st.integers(0, 99)),
        st.builds(end, st.text(), NUMBERS),
    ),
    max_size=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(EVENTS, max_size=4))
def test_what_is_appended_is_read(batches: list[list[Any]], tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(b"")
    for batch in batches:
        append(path, batch)
    assert read(path) == [event for batch in batches for event in batch]


def test_one_line_an_event(tmp_path: Path) -> None:
    append(tmp_path / "ledger", [session(), error(0, "two\nlines\r\u2028")])
    lines = (tmp_path / "ledger").read_bytes().split(b"\n")
    assert [json.loads(line) for line in lines[:-1]] == [session(), error(0, "two\nlines\r\u2028")]
    assert lines[-1] == b""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_null(value: float, tmp_path: Path) -> None:
    append(tmp_path / "ledger", [report(0, 1, 0.1, value)])
    assert b'"loss": null' in (tmp_path / "ledger").read_bytes()
    assert read(tmp_path / "ledger") == [report(0, 1, 0.1, None)]


def test_an_event_that_json_cannot_hold_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="JSON serializable"):
        append(tmp_path / "ledger", [session(), {"event": "end", "reason": object()}])
    assert not (tmp_path / "ledger").exists()


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_torn_last_line_never_happened(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    append(path, [session(), report(0, 1)])
    whole = path.read_bytes()
    append(path, [report(0, 2)])
    path.write_bytes(path.read_bytes()[:-cut])
    assert read(path) == [session(), report(0, 1)]
    drop_torn_line(path)
    assert path.read_bytes() == whole
    append(path, [report(0, 2)])
    assert read(path) == [session(), report(0, 1), report(0, 2)]


@pytest.mark.parametrize("content", [b"", b'{"event": "sess'])
def test_without_a_whole_line_there_is_no_event(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "ledger").write_bytes(content)
    assert read(tmp_path / "ledger") == []
    drop_torn_line(tmp_path / "ledger")
    assert (tmp_path / "ledger").read_bytes() == b""


def test_dropping_leaves_a_whole_ledger_as_it_is(tmp_path: Path) -> None:
    append(tmp_path / "ledger", [session(), end()])
    before = (tmp_path / "ledger").read_bytes()
    drop_torn_line(tmp_path / "ledger")
    assert (tmp_path / "ledger").read_bytes() == before


def line(event: dict[str, Any], **changes: Any) -> str:
    return json.dumps({**event, **changes})


@pytest.mark.parametrize(
    ("damaged", "rule"),
    [
        ("", "Expecting value"),
        ('{"event": "session"', "Expecting ',' delimiter"),
        ("\0" * 20, "Expecting value"),
        ("[" * 100_000, "recursion"),
        ("1" * 5000, "4300"),
        ("[1, 2]", r"must be a mapping; got \[1, 2\]"),
        ("{}", "event is missing"),
        ('{"event": "rebort"}', "one of trial, report, promote, error, session, end"),
        ('{"event": ["trial"]}', "event must be one of"),
        (line(report(0, 1), trial=-1), "trial must be an integer ≥ 0 and ≤ 2147483647; got -1"),
        (line(report(0, 1), trial=True), "trial must be an integer"),
        (line(report(0, 1), trial=1.0), "trial must be an integer"),
        (line(report(0, 1), epoch="1"), "epoch must be an integer"),
        (line(report(0, 1), epoch=2**31), "epoch must be an integer"),
        (line(report(0, 1), accuracy="0.5"), "accuracy must be a finite number, or null"),
        (line(report(0, 1), loss=math.nan), "loss must be a finite number, or null; got nan"),
        (line(report(0, 1), loss=10**400), "loss must be a finite number, or null; got 1000"),
        (line(report(0, 1), epoch_s=None), "epoch_s must be a finite number; got None"),
        (line(report(0, 1), epoch_s=1e301), "epoch_s must be a finite number"),
        (line(report(0, 1), decision="wait"), "decision must be one of continue, pause, stop"),
        (line(report(0, 1), reason=None), "reason must be text"),
        (line(promote(0, 1), trial="0"), "trial must be an integer"),
        (line(promote(0, 1), epoch=None), "epoch must be an integer"),
        (line(error(0), message="\ud800"), "message must be text"),
        (line(drawn(0), config=[]), "config must be a mapping"),
        (line(session(), slots=None), "slots must be an integer"),
        (line(end(), wall_s="1"), "wall_s must be a finite number"),
        ('{"event": "report", "trial": 0}', "epoch is missing"),
    ],
)
def test_a_damaged_line_is_refused_with_its_number(damaged: str, rule: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_text(f"{line(session())}\n{damaged}\n{line(session())}\n")
    with pytest.raises(RunError, match=f"ledger:2: the ledger is damaged here .*{rule}"):
        read(path)


VALID = "".join(f"{line(e)}\n" for e in (session(), drawn(0), report(0, 1), error(0), end()))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.binary(max_size=60),
    at=st.integers(0, len(VALID)),
    replaced_bytes=st.integers(0, 3),
)
def test_any_bytes_are_read_or_refused(
    content: bytes, at: int, replaced_bytes: int, tmp_path: Path
) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(VALID.encode()[:at] + content + VALID.encode()[at + replaced_bytes :])
    with contextlib.suppress(RunError):
        assert all("event" in event for event in read(path))


@pytest.mark.parametrize("use", [read, drop_torn_line])
def test_a_ledger_that_cannot_be_read(use: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"ledger: cannot be read \(No such file or directory\)"):
        use(tmp_path / "ledger")
    with pytest.raises(RunError, match=r"cannot be read \(Is a directory\)"):
        use(tmp_path)


ENDLESS = """
import itertools, sys
from pathlib import Path
from mnist_tune.ledger import append
for trial in itertools.count():
    event = {"event": "error", "trial": trial, "message": "x" * (trial % 977)}
    append(Path(sys.argv[1]), [event])
    print(trial, flush=True)
"""


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    # In a run directory of somebody else's it can lead to any file of the user's.
    theirs, path = tmp_path / "theirs", tmp_path / "ledger.jsonl"
    theirs.write_text('{"a":\n"torn"')
    path.symlink_to(theirs)
    for use in (read, drop_torn_line):
        with pytest.raises(RunError, match=r"ledger.jsonl: is a link; a ledger must be a file"):
            use(path)
    with pytest.raises(OSError, match="symbolic links"):
        append(path, [{"event": "end"}])
    assert theirs.read_text() == '{"a":\n"torn"'


@pytest.mark.parametrize("acknowledged", [1, 20, 100])
def test_a_kill_loses_no_acknowledged_event(acknowledged: int, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    writer = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    for _ in range(acknowledged):
        last = int(writer.stdout.readline())
    writer.kill()
    last = max([last, *map(int, writer.stdout.read().split())])
    writer.stdout.close()
    writer.wait(30)
    drop_torn_line(path)
    trials = [event["trial"] for event in read(path)]
    assert trials == list(range(len(trials)))
    assert len(trials) > last


# A limit on the size of files does as a disk that is full: it cuts a write short.
FULL = """
import resource, sys
from pathlib import Path
from mnist_tune.ledger import append
path = Path(sys.argv[1])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
event = {"event": "error", "trial": 0, "message": "x" * 100}
append(path, [event])
resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
try:
    append(path, [event, event])
except OSError as refused:
    print(refused.strerror)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
append(path, [event])
"""


def test_a_full_disk_leaves_no_part_of_an_event(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "File too large\n"
    assert len(read(path)) == 2
