"""What is done along the way: records, validation, early stop, checkpoint, timing."""

import statistics
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from hymba_lab.errors import LaunchError
from hymba_lab.training.leaving import Leaving
from hymba_lab.training.module import LitLanguageModel
from hymba_lab.training.random_state import random_state, restore_random_state
from hymba_lab.training.world import agreed, gathered

RECENT = 1000
"""Steps whose time is kept: a run of a million reads its speed off as fast as a short one."""

Metrics = dict[str, float]
Stop = Callable[[int, Metrics], bool]


class Milestones(Callback):
    """Logs, validates, asks whether to stop and saves, in that order, after the steps that are due.

    A checkpoint therefore holds all that its step has to say, and a run that continues from it
    leaves nothing out. Lightning's validation loop is not used: it skips the end of a run whose
    length is no multiple of the interval, and its progress is a second state to restore.
    """

    def __init__(self, checkpoint: Path, stop: Stop | None) -> None:
        self.checkpoint, self.stop, self.leaving = checkpoint, stop, Leaving()
        self.history: list[tuple[int, Metrics]] = []
        self.stopped = False
        self.resumed_from = self._step = 0
        self._seconds_before = 0.0
        self._random: dict[str, Any] | None = None
        self._step_seconds: deque[float] = deque(maxlen=RECENT)
        self._begin = self._mark = 0.0

    @property
    def seconds(self) -> float:
        """Time spent in the loop [s], the sessions before a resume included."""
        return self._seconds_before + (time.perf_counter() - self._begin if self._begin else 0.0)

    @property
    def seconds_per_step(self) -> float:
        """Median time [s] of the last `RECENT` steps, without validation and saving; NaN before."""
        timed = list(self._step_seconds)
        timed = timed[1:] or timed  # the first one warms caches up
        return statistics.median(timed) if timed else float("nan")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue the random streams of the checkpoint and start the clock.

        Whoever decides about stopping is told what it said before the interruption: its decision
        then rests on the whole curve, and one that was made but not obeyed is made again.
        """
        module = cast(LitLanguageModel, pl_module)
        _require_one_start(trainer.global_step, module.mixture.fingerprint)
        if self._random is not None:
            restore_random_state(self._random)
        if self.stop is not None and self._step < module.n_steps:
            self.stopped = any(self.stop(*past) for past in self.history)
        trainer.should_stop = self.stopped = agreed(self.stopped)
        self._begin = self._mark = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Do what is due after this step."""
        self._step_seconds.append(time.perf_counter() - self._mark)
        module, step = cast(LitLanguageModel, pl_module), trainer.global_step
        self._step = step
        training, last = module.config.training, step == module.n_steps
        validates = last or step % training.val_every == 0
        if last or step % training.log_every == 0:
            module.report()
        if validates:
            self._validate(module, step)
            self.stopped = agreed(self._asked_to_stop()) and not last
        leaves = self.leaving.agree()
        if validates or step % training.checkpoint_every == 0 or leaves:
            trainer.save_checkpoint(self.checkpoint)
        trainer.should_stop = self.stopped
        self._mark = time.perf_counter()

    def _validate(self, module: LitLanguageModel, step: int) -> None:
        metrics = module.measure()
        self.history.append((step, metrics))
        module.record(metrics)

    def _asked_to_stop(self) -> bool:
        return self.stop is not None and self.stop(*self.history[-1])

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run has to know."""
        return {
            "step": self._step,
            "history": [[step, metrics] for step, metrics in self.history],
            "seconds": self.seconds,
            "random": random_state(),
            "n_threads": torch.get_num_threads(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the history of the run so far."""
        self.resumed_from = self._step = state_dict["step"]
        self.history = [(step, metrics) for step, metrics in state_dict["history"]]
        self._seconds_before, self._random = state_dict["seconds"], state_dict["random"]
        before, now = state_dict.get("n_threads"), torch.get_num_threads()
        if before not in (None, now):
            print(
                f"this run was begun with {before} torch threads and goes on with {now}: its last "
                "bits may differ from an uninterrupted run's.",
                flush=True,
            )


def _require_one_start(step: int, data: str) -> None:
    """Raise `LaunchError` on every rank where they begin at different steps, or with other data.

    Copies that begin apart are never made equal again: each would go on with moments, learning
    rates and batches of its own.
    """
    steps, fingerprints = zip(*gathered([(step, data)]), strict=True)
    for what, found in (("begin at step", steps), ("read the data", fingerprints)):
        if len(set(found)) > 1:
            said = ", ".join(str(one)[:12] for one in found)
            raise LaunchError(
                f"ranks 0 to {len(found) - 1} {what} {said}: they do not see the same files; share "
                "one folder under one path between all nodes, and name it with --root."
            )
