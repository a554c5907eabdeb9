"""Keras Tuner's Hyperband: a chief hands out trials to two workers, each on one thread.

This process is one of the workers; it starts the other and the chief. Hyperband decides by itself
how many trials there are and how long each is; it takes its configurations from the task's.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

from benchmarks.peers.task import Splits, Task, answer, load, read_task

BATCH_SIZE = 128
EVALUATION_BATCH_SIZE = 512
STEPS_PER_EXECUTION = 16
"""Steps between two returns to Python; with 1, Keras waits as long as it computes."""


def _tuner(task: Task) -> Any:
    import keras
    import keras_tuner

    layers = keras.layers

    def build(hp: keras_tuner.HyperParameters) -> keras.Model:
        config = task.configs[hp.Choice("config", list(range(len(task.configs))))]
        model = keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Conv2D(
                    32, 3, padding="same", activation="relu", kernel_initializer="lecun_normal"
                ),
                layers.AveragePooling2D(2),
                layers.Conv2D(
                    64, 3, padding="same", activation="relu", kernel_initializer="lecun_normal"
                ),
                layers.AveragePooling2D(2),
                layers.Flatten(),
                layers.Dense(256, activation="relu", kernel_initializer="lecun_normal"),
                layers.Dense(10, kernel_initializer="lecun_normal"),
            ]
        )
        model.compile(
            optimizer=keras.optimizers.SGD(config["learning_rate"], momentum=config["beta"]),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            steps_per_execution=STEPS_PER_EXECUTION,
        )
        return model

    return keras_tuner.Hyperband(
        build,
        objective="val_accuracy",
        max_epochs=task.epochs,
        factor=3,
        seed=0,
        directory=task.directory,
        project_name="search",
    )


def _search(task: Task, data: Splits) -> None:
    """This process's part of the search: the chief's, or a worker's."""
    tuner = _tuner(task)
    tuner.search(
        *data.train,
        validation_data=tuple(data.validation),
        batch_size=BATCH_SIZE,
        validation_batch_size=EVALUATION_BATCH_SIZE,
        verbose=0,
    )


def _start(role: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers.keras_hyperband", *sys.argv[1:]],
        env={**os.environ, "KERASTUNER_TUNER_ID": role},
        stdout=subprocess.DEVNULL,
    )


def _distributed(task: Task, data: Splits) -> None:
    """Runs the whole search; returns when both workers are through."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    oracle = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": port}
    os.environ.update(oracle)
    chief, worker = _start("chief"), _start("worker1")
    try:
        os.environ["KERASTUNER_TUNER_ID"] = "worker0"
        _search(task, data)
        if worker.wait():
            raise SystemExit("the other worker failed")
    finally:
        # The chief would look only every 20 seconds whether its workers are through.
        for process in (chief, worker):
            process.kill()
            process.wait()
    for name in (*oracle, "KERASTUNER_TUNER_ID"):
        del os.environ[name]


def main() -> None:
    """Runs the search or, in a process that this one started, a part of it."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    task = read_task()
    data = load(task)
    if "KERASTUNER_TUNER_ID" in os.environ:
        _search(task, data)
        return
    _distributed(task, data)
    tuner = _tuner(task)
    tuner.oracle.reload()
    best = tuner.oracle.get_best_trials()[0]
    model = tuner.get_best_models()[0]
    _, test = model.evaluate(*data.test, batch_size=EVALUATION_BATCH_SIZE, verbose=0)
    tried = [trial.hyperparameters.values for trial in tuner.oracle.trials.values()]
    answer(
        task.configs[best.hyperparameters.values["config"]],
        best.score,
        test,
        sum(values["tuner/epochs"] - values["tuner/initial_epoch"] for values in tried),
        len({values["config"] for values in tried}),
    )


if __name__ == "__main__":
    main()
