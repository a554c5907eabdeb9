"""Optuna + PyTorch: two processes work on one study, poor trials are pruned."""

from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from benchmarks.peers import torch_cnn
from benchmarks.peers.task import Splits, Task, answer, load, read_task

PROCESSES = 2


def _study(task: Task) -> optuna.Study:
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(f"{task.directory}/journal")),
        study_name="search",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
    )


def _work(task: Task, data: Splits) -> None:
    """Runs trials until all configurations have been taken."""
    torch.set_num_threads(1)
    train, validation = torch_cnn.tensors(data.train), torch_cnn.tensors(data.validation)

    def objective(trial: optuna.Trial) -> float:
        config = {
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1.0, log=True),
            "beta": trial.suggest_float("beta", 0.0, 0.99),
        }
        state, best = torch_cnn.start(config), -1.0
        for epoch in range(1, task.epochs + 1):
            torch_cnn.train_epoch(state, train)
            accuracy = torch_cnn.accuracy(state.model, validation)
            if accuracy > best:
                best = accuracy
                torch.save(state.model.state_dict(), _checkpoint(task, trial.number))
            trial.report(accuracy, epoch)
            if trial.should_prune() and epoch < task.epochs:
                raise optuna.TrialPruned
        return best

    taken = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
    stop = MaxTrialsCallback(len(task.configs), states=taken)
    _study(task).optimize(objective, callbacks=[stop])


def _checkpoint(task: Task, number: int) -> Path:
    return Path(task.directory) / f"trial-{number}.pt"


def main() -> None:
    """Runs the search."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    task = read_task()
    data = load(task)
    study = _study(task)
    for config in task.configs:
        study.enqueue_trial(config)
    # Forked, as multiprocessing does by itself on Linux: the imports are paid for once.
    fork = get_context("fork")
    workers = [fork.Process(target=_work, args=(task, data)) for _ in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a worker failed")
    best = study.best_trial
    model = torch_cnn.start({"learning_rate": 0.1, "beta": 0.9}).model
    model.load_state_dict(torch.load(_checkpoint(task, best.number)))
    epochs = sum(len(trial.intermediate_values) for trial in study.trials)
    test = torch_cnn.accuracy(model, torch_cnn.tensors(data.test))
    answer(best.params, best.values[0], test, epochs, len(study.trials))


if __name__ == "__main__":
    main()
