"""Configurations drawn beforehand are handed out once each, in order."""

from __future__ import annotations

from pathlib import Path

from ray.tune.search import Searcher

from mnist_tune.listed import ListedConfigs


def test_each_config_is_suggested_once_in_order() -> None:
    configs = [{"trial": i} for i in range(3)]
    searcher = ListedConfigs(configs)
    assert [searcher.suggest(f"id{i}") for i in range(3)] == configs
    assert [searcher.suggest(f"id{i}") for i in range(3, 6)] == [Searcher.FINISHED] * 3


def test_results_change_nothing() -> None:
    searcher = ListedConfigs([{"trial": i} for i in range(3)])
    searcher.suggest("a")
    searcher.on_trial_result("a", {"accuracy": 1.0})
    searcher.on_trial_complete("a", {"accuracy": 1.0}, error=False)
    searcher.on_trial_complete("a", None, error=True)
    assert searcher.suggest("b") == {"trial": 1}


def test_an_empty_list_is_finished() -> None:
    assert ListedConfigs([]).suggest("a") == Searcher.FINISHED


def test_nothing_is_left_for_rays_restore(tmp_path: Path) -> None:
    searcher = ListedConfigs([{"trial": 0}])
    searcher.save(str(tmp_path / "state"))
    assert list(tmp_path.iterdir()) == []
    searcher.restore(str(tmp_path / "state"))
    assert searcher.suggest("a") == {"trial": 0}
