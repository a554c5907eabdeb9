"""The public names, and who may import whom: nothing heavy is imported before it's needed."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import mnist_tune

PACKAGE = Path(mnist_tune.__file__).parent
WITH_JAX = {"jax", "flax", "optax"}
HEAVY = WITH_JAX | {"ray", "tensorflow", "tensorflow_datasets", "sklearn"}

# The rooms that are made of JAX or of Ray; all others import neither before it's needed.
OF_JAX = {
    "mnist_tune.conv",
    "mnist_tune.lanes",
    "mnist_tune.model",
    "mnist_tune.programs",
    "mnist_tune.training",
}
OF_RAY = {
    "mnist_tune.asha",
    "mnist_tune.budget",
    "mnist_tune.engines",
    "mnist_tune.lane_trial",
    "mnist_tune.listed",
    "mnist_tune.promotions",
    "mnist_tune.trial",
}


def module_name(path: Path) -> str:
    return ".".join(("mnist_tune", *path.relative_to(PACKAGE).with_suffix("").parts))


FILES = {module_name(p): p for p in PACKAGE.rglob("*.py") if not p.name.startswith("__")}
FILES["mnist_tune.cli"] = PACKAGE / "cli" / "__init__.py"


def imported_with(modules: Iterable[str], heavy: set[str]) -> dict[str, set[str]]:
    """Imports modules one after the other; module → what of ``heavy`` was imported with it."""
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[2:]:\n"
        "    before = set(sys.modules)\n"
        "    importlib.import_module(name)\n"
        "    print(name, *(set(sys.argv[1].split()) & (set(sys.modules) - before)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, " ".join(heavy), *modules],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    return {name: set(found) for name, *found in lines if found}


def test_public_names_can_be_imported() -> None:
    for name in mnist_tune.__all__:
        assert inspect.isfunction(getattr(mnist_tune, name)), name
        assert getattr(mnist_tune, name).__name__ == name
    assert sorted(mnist_tune.__all__) == sorted(mnist_tune._HOMES)


def test_a_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from mnist_tune import *", names)
    assert set(mnist_tune.__all__) == names.keys() - {"__builtins__"}


def test_search_is_a_function_also_after_its_module_was_imported() -> None:
    code = (
        "import mnist_tune.searching, mnist_tune.training_run\n"
        "from mnist_tune import replay, resume, search, train\n"
        "print(*map(type, (replay, resume, search, train)), sep='\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "<class 'function'>\n" * 4


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'mnist_tune' has no attribute 'serach'"):
        mnist_tune.serach  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'serach'"):
        from mnist_tune import serach  # noqa: F401


def test_importing_the_package_costs_nothing() -> None:
    assert imported_with(["mnist_tune"], HEAVY | {"numpy", "click", "rich"}) == {}


def test_modules_import_nothing_heavy() -> None:
    light = sorted(FILES.keys() - OF_JAX - OF_RAY)
    assert len(light) > 30
    assert imported_with(light, HEAVY) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modules", "never"), [(OF_JAX, HEAVY - WITH_JAX), (OF_RAY, HEAVY - {"ray"})]
)
def test_jax_and_ray_are_kept_apart(modules: set[str], never: set[str]) -> None:
    found = set().union(*imported_with(sorted(modules), HEAVY).values())
    assert found - never
    assert not found & never


def imports(module: str) -> Iterator[str]:
    """The full names of all that a module imports, also inside its functions."""
    tree = ast.parse(FILES[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


NEVER = {
    **{name: HEAVY | {"numpy"} for name in ("errors", "records", "rungs", "hparams", "ledger")},
    **dict.fromkeys(("results", "yamls", "experiment", "display", "report"), HEAVY),
    **{name: {"ray", "mnist_tune.searching", "mnist_tune.trial"} for name in ("model", "conv")},
    "training": {"ray", "mnist_tune.experiment", "mnist_tune.searching", "mnist_tune.trial"},
    "datasets": {"jax", "flax", "ray"},
    "space": {"jax", "mnist_tune.training"},
    "trial": {"mnist_tune.asha", "mnist_tune.searching", "mnist_tune.winner"},
    **{name: {"jax", "flax", "mnist_tune.training"} for name in ("asha", "promotions")},
    "searching": {"jax", "flax", "mnist_tune.training"},
}


@pytest.mark.parametrize("module", NEVER)
def test_rooms_that_must_not_know_of_each_other(module: str) -> None:
    never = NEVER[module]
    found = [
        name
        for name in imports(f"mnist_tune.{module}")
        if any(name == root or name.startswith(f"{root}.") for root in never)
    ]
    assert found == []


def test_nothing_imports_the_command_line() -> None:
    for module in FILES:
        if not module.startswith("mnist_tune.cli"):
            assert [name for name in imports(module) if name.startswith("mnist_tune.cli")] == []
