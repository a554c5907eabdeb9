"""Mutated input for everything that mnist-tune reads: it's accepted or refused, and nothing else.

``python -m tests.fuzz --count 10000`` mutates as many; test_fuzz.py a few of them. An input is
refused with an error of our own within seconds, and memory has a bound.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mnist_tune.checkpoints import read_checkpoint, write_checkpoint
from mnist_tune.data_dir import read_arrays, write_arrays
from mnist_tune.errors import MnistTuneError
from mnist_tune.experiment import open_experiment
from mnist_tune.report import summary_text
from mnist_tune.space import draw, load_space
from mnist_tune.training_run import read_best
from tests.examples import META, finished_run, new_run, paused, promote, report

SPACES = Path(__file__).parent.parent / "search_spaces"
MEMORY_BYTES = 6 << 30
"""Of address space, most of which the libraries take when they are imported."""
_DEADLINE_MS = 10_000

_TOKENS = [
    *(b"null", b"true", b"nan", b".inf", b"-.inf", b"NaN", b"1e999", b"-1", b"0", b"0x10", b"1_0"),
    *(
        b"18446744073709551616",
        b"9" * 5000,
        b"1e-400",
        b"2026-11-22",
        b"''",
        b'"',
        b"'",
        b"\\u0000",
    ),
    *(b"!!python/object/apply:os.system [touch executed]", b"!!binary aGk=", b"!!set {a}"),
    *(
        b"&a [*a, *a]",
        b"<<: *a",
        b"*a",
        b"? ",
        b"---\n",
        b"...\n",
        b"%YAML 9.9\n",
        b"#",
        b"|",
        b">",
    ),
    *(b"[" * 4000, b"{a: " * 4000, b"- " * 4000, b"a" * 70_000, b"\xff\xfe", b"\x00", b"\x85"),
    *(b"\n", b"\r", b"\t", b": ", b",", b"{", b"}", b"]", "\u2028".encode(), "é".encode(), b"\xf0"),
    *(b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\xff\xff\xff\x7f"),
]
_Mutation = tuple[str, float, float, bytes]
_MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "replace", "delete", "repeat", "truncate", "flip"]),
        st.floats(0, 1),
        st.floats(0, 0.2),
        st.sampled_from(_TOKENS),
    ),
    min_size=1,
    max_size=4,
)


def mutate(content: bytes, mutations: list[_Mutation]) -> bytes:
    """Applies mutations, each at a place that is a fraction of the length."""
    for kind, at, share, token in mutations:
        start = int(at * len(content))
        end = min(len(content), start + 1 + int(share * share * len(content)))
        before, middle, after = content[:start], content[start:end], content[end:]
        content = {
            "insert": before + token + middle + after,
            "replace": before + token + after,
            "delete": before + after,
            "repeat": before + middle + middle + after,
            "truncate": before,
            "flip": before + bytes(byte ^ 0x21 for byte in middle) + after,
        }[kind]
    return content


class Target(NamedTuple):
    """A file, and what mnist-tune does with it; ``read`` gets the file's path."""

    path: Path
    read: Callable[[Path], Any]


def targets(directory: Path) -> Mapping[str, Target]:
    """Every kind of file, made in a directory that is to be thrown away."""
    run = directory / "run"
    finished_run(run)
    promoted = new_run(directory / "promoted", asha_type="promotion")
    promoted.record(paused(0, 1), paused(1, 1), promote(1, 1), report(1, 2), paused(1, 3))

    def read_run(path: Path) -> str:
        return summary_text(open_experiment(path.parent))

    spaces = directory / "spaces"
    shutil.copytree(SPACES, spaces)
    checkpoint = directory / "model.safetensors"
    write_checkpoint(checkpoint, {"params": {"layer": {"bias": np.zeros(3, np.float32)}}}, META)
    arrays = directory / "arrays"
    write_arrays(arrays, {"x": np.zeros((4, 5), np.uint8)}, "made up")

    def read_data(path: Path) -> Any:
        return read_arrays(path.parent, {"x": ((4, 5), np.uint8)})

    found = {
        f"space {path.name}": Target(path, lambda path: draw(load_space(path), 3, 0, "random"))
        for path in sorted(spaces.glob("*.yaml"))
    }
    return {
        **found,
        "search.yaml": Target(run / "search.yaml", read_run),
        "best.yaml of a run": Target(run / "best.yaml", read_run),
        "best.yaml": Target(run / "best.yaml", read_best),
        "ledger": Target(run / "ledger.jsonl", read_run),
        "ledger of promotions": Target(promoted.path / "ledger.jsonl", read_run),
        "checkpoint": Target(checkpoint, read_checkpoint),
        "data manifest": Target(next(arrays.glob("*.json")), read_data),
        "data array": Target(arrays / "x.npy", read_data),
    }


class Count(NamedTuple):
    """How many inputs were accepted and refused."""

    accepted: int
    refused: int


def fuzz(target: Target, count: int) -> Count:
    """Reads mutated versions of a file; raises what isn't an error of our own."""
    original = target.path.read_bytes()
    counts = {"accepted": 0, "refused": 0}

    @settings(
        max_examples=count,
        deadline=_DEADLINE_MS,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(_MUTATIONS)
    def check(mutations: list[_Mutation]) -> None:
        target.path.write_bytes(mutate(original, mutations))
        try:
            target.read(target.path)
        except MnistTuneError:
            counts["refused"] += 1
        else:
            counts["accepted"] += 1

    try:
        check()
    finally:
        target.path.write_bytes(original)
    return Count(**counts)


def main() -> None:
    """Fuzzes every kind of file, each with its share of the count, and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=main.__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="inputs (default: 10000)")
    count = parser.parse_args().count
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with tempfile.TemporaryDirectory() as directory:
        found = targets(Path(directory))
        sys.stdout.write("| file | inputs | accepted | refused |\n|---|---|---|---|\n")
        total = 0
        for name, target in found.items():
            accepted, refused = fuzz(target, -(-count // len(found)))
            total += accepted + refused
            sys.stdout.write(f"| {name} | {accepted + refused} | {accepted} | {refused} |\n")
            sys.stdout.flush()
        if list(Path().glob("executed")) or list(Path(directory).rglob("executed")):
            raise SystemExit("an input was executed")
        sys.stdout.write(f"{total} inputs: each accepted, or refused with a message of ours\n")


if __name__ == "__main__":
    main()
