"""cluster.yaml against Ray's own schema, and the typos that Ray's schema lets through."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import ROOT
from ruamel.yaml import YAML


def load() -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load((ROOT / "cluster.yaml").read_text())
    return content


def validate(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config))


def test_rays_schema_accepts_it() -> None:
    validate(load())


def test_rays_schema_refuses_a_typo() -> None:
    with pytest.raises(Exception, match="max_worker"):
        validate({**load(), "max_worker": 3})


def test_workers_come_when_needed_and_bring_a_gpu() -> None:
    types = load()["available_node_types"]
    assert types["gpu_worker"]["min_workers"] == 0
    assert types["gpu_worker"]["resources"]["GPU"] == 1
    assert "GPU" not in types["head"]["resources"]


def test_nodes_install_what_is_locked() -> None:
    commands = " ".join(load()["setup_commands"])
    assert "--locked" in commands
    assert "--extra cuda" in commands
