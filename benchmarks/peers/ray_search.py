"""What the three Ray Tune scripts share: the search itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from benchmarks.peers.task import Config, Task, answer


def search(
    task: Task,
    trainable: Any,
    score: Callable[[str, Config], float],
    *,
    reuse: bool,
    checkpoint_every_epoch: bool,
) -> None:
    """Runs the task's trials, two at a time, and scores the winner.

    Args:
        task: the search.
        trainable: reports ``accuracy``, with a checkpoint, after each epoch.
        score: a checkpoint's directory and its configuration → test accuracy.
        reuse: whether an actor goes on with the next trial.
        checkpoint_every_epoch: whether Ray asks for checkpoints (a class has to be asked).
    """
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=f"{task.directory}/ray",
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={
            "learning_rate": tune.loguniform(1e-4, 1.0),
            "beta": tune.uniform(0.0, 0.99),
        },
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            num_samples=len(task.configs),
            search_alg=BasicVariantGenerator(points_to_evaluate=task.configs),
            scheduler=ASHAScheduler(max_t=task.epochs, grace_period=1, reduction_factor=3),
            reuse_actors=reuse,
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=f"{task.directory}/results",
            verbose=0,
            stop={"training_iteration": task.epochs},
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=1 if checkpoint_every_epoch else 0, checkpoint_at_end=False
            ),
        ),
    )
    results = tuner.fit()
    if results.num_errors:
        raise SystemExit("trials failed")
    best = results.get_best_result(scope="all")
    checkpoint, metrics = max(best.best_checkpoints, key=lambda kept: kept[1]["accuracy"])
    answer(
        best.config,
        metrics["accuracy"],
        score(checkpoint.path, best.config),
        sum(result.metrics["training_iteration"] for result in results),
        len(results),
    )
    ray.shutdown()
