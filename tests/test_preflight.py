"""What every node is asked before the first trial, on real nodes that share this machine.

Nodes that don't share the storage are in tests/cluster, where nodes are hosts of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from processes import nothing_left, temporary_directory
from ray_clusters import head, node

from mnist_tune import preflight
from mnist_tune.cluster import ray_session
from mnist_tune.errors import ClusterError
from mnist_tune.options import SearchOptions
from mnist_tune.preflight import NodeReport, advice, check_nodes, ready_slots, table, try_nodes
from mnist_tune.slots import Node, Slots, nodes

HERE = Node("n1", "one", "10.0.0.1", 2.0, 0.0)
THERE = Node("n2", "another", "10.0.0.12", 4.0, 1.0)


def test_the_table_has_a_line_a_node() -> None:
    reports = [
        NodeReport(HERE, "ok", "ok", "ok"),
        NodeReport(THERE, "jax 0.1 (here 0.2)", "JAX sees 0 GPUs", "Permission denied"),
    ]
    assert table(reports).splitlines() == [
        "node       host     CPUs  GPUs  versions            devices          storage",
        "10.0.0.1   one      2     0     ok                  ok               ok",
        "10.0.0.12  another  4     1     jax 0.1 (here 0.2)  JAX sees 0 GPUs  Permission denied",
    ]
    assert [report.ok for report in reports] == [True, False]


def test_advice_is_only_of_what_is_wrong() -> None:
    fine = NodeReport(HERE, "ok", "ok", "ok")
    assert advice([fine]) == ""
    assert advice([fine, fine._replace(storage="not shared")]).startswith("storage: --storage-path")
    both = advice([fine._replace(devices="no"), fine._replace(versions="no")]).splitlines()
    assert [line.partition(":")[0] for line in both] == ["versions", "devices"]


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    with temporary_directory() as path:
        yield path
        nothing_left(path)


def another_jax(directory: Path) -> Path:
    """What makes a node say that its JAX is another, on its PYTHONPATH."""
    info = directory / "jax-0.0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: jax\nVersion: 0.0.1\n")
    return directory


@pytest.fixture(scope="module")
def three_nodes(temporary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A head without cores, a node like this process, and one with another JAX and a GPU that
    nobody else sees."""
    other = another_jax(tmp_path_factory.mktemp("other"))
    with ExitStack() as stack:
        address = stack.enter_context(head(temporary, cpus=0))
        stack.enter_context(node(address, temporary, 2))
        stack.enter_context(node(address, temporary, 2, "--num-gpus=1", PYTHONPATH=str(other)))
        yield address


@pytest.fixture(scope="module")
def joined(three_nodes: str) -> Iterator[str]:
    with ray_session(three_nodes, verbose=False) as connect:
        connect()
        yield three_nodes


@pytest.mark.slow
def test_what_is_wrong_on_real_nodes(joined: str, tmp_path: Path) -> None:
    there = nodes()
    reports = try_nodes(there, tmp_path / "runs", gpus=True)
    found = {(r.node.cpus, r.node.gpus): r[1:] for r in reports}
    assert len(reports) == 3
    assert found[0, 0] == found[2, 0] == ("ok", "ok", "ok")
    versions, devices, storage = found[2, 1]
    assert versions.startswith("jax 0.0.1 (here ")
    assert devices == "JAX sees 0 GPUs"
    assert storage == "ok"
    assert not list((tmp_path / "runs").iterdir())
    check_nodes([node for node in there if not node.gpus], tmp_path / "runs", gpus=True)
    without = {
        (r.node.cpus, r.node.gpus): r.devices for r in try_nodes(there, tmp_path, gpus=False)
    }
    assert without == {(0, 0): "ok", (2, 0): "ok", (2, 1): "ok"}
    with pytest.raises(ClusterError, match=r"(?s)isn't fit .*runs:\nnode .*\nversions: install"):
        check_nodes(there, tmp_path / "runs", gpus=True)


@pytest.mark.slow
def test_only_nodes_with_room_for_a_trial_are_tried(joined: str, tmp_path: Path) -> None:
    said: list[str] = []

    def ready(**options: Any) -> Slots:
        return ready_slots(SearchOptions(address=joined, **options), 5, tmp_path, said.append)

    with pytest.raises(ClusterError, match=r"jax 0\.0\.1"):
        ready(gpus_per_trial=1)
    with pytest.raises(ClusterError, match=r"jax 0\.0\.1"):
        ready(gpus_per_trial=0)
    assert said[0] == "1 nodes have room for 1 trials at a time; trying each"
    assert said[1] == "2 nodes have room for 4 trials at a time; trying each"


@pytest.mark.slow
def test_storage_that_cannot_be_written_or_is_not_seen(
    joined: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = [node for node in nodes() if not node.gpus]
    # Each node is told of another place than the one where this process writes and looks.
    elsewhere = tmp_path / "elsewhere"
    ask = preflight._ask
    monkeypatch.setattr(
        preflight,
        "_ask",
        lambda to_try, marker, names, gpus: ask(to_try, elsewhere / marker.name, names, gpus),
    )
    with pytest.raises(ClusterError, match=r"not shared: what is written here isn't seen there"):
        check_nodes(fit, tmp_path, gpus=False)
    monkeypatch.setattr(
        preflight,
        "_ask",
        lambda to_try, marker, names, gpus: ask(
            to_try, marker, {name: elsewhere / path.name for name, path in names.items()}, gpus
        ),
    )
    with pytest.raises(ClusterError, match=r"not shared: what is written there isn't seen here"):
        check_nodes(fit, tmp_path, gpus=False)


@pytest.mark.slow
def test_a_search_is_refused_before_anything_is_written(
    cli: Cli, three_nodes: str, tmp_path: Path, lr_beta: Path, digits_data_dir: Path
) -> None:
    command = ["search", "--space", lr_beta, "--dataset", "digits", "--data-dir", digits_data_dir]
    done = cli(*command, "--address", three_nodes, "--storage-path", tmp_path / "runs")
    assert done.returncode == 2
    assert "jax 0.0.1 (here " in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.slow
def test_doctor_tells_of_all_nodes(cli: Cli, three_nodes: str, tmp_path: Path) -> None:
    done = cli("doctor", "--address", three_nodes, "--storage-path", tmp_path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["node", "host", "CPUs", "GPUs", "versions", "devices", "storage"]
    assert len([line for line in lines if line.endswith("ok")]) == 3
    assert "JAX sees 0 GPUs" in done.stdout
