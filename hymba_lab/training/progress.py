"""One line that says how far a run is; on a pipe or in a file, one line per validation."""

import time
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from hymba_lab import cli
from hymba_lab.cli import plain_console
from hymba_lab.training.milestones import Milestones
from hymba_lab.training.module import LitLanguageModel

_REFRESH = 0.5  # seconds between two looks at the loss, which on a GPU waits for the step


class ProgressLine(Callback):
    """step / total, loss, tokens per second, time left."""

    def __init__(self, milestones: Milestones, console: Console | None = None) -> None:
        """Reads speed and validations off `milestones`, which must come before it."""
        self._milestones, self._console = milestones, console or plain_console()
        self._bar: Progress | None = None
        self._shown = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the line."""
        if not self._console.is_terminal:
            return
        columns = (
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[said]}", markup=False),
            TimeRemainingColumn(compact=True),
        )
        self._bar = Progress(*columns, console=self._console, auto_refresh=False)
        n_steps = cast(LitLanguageModel, pl_module).n_steps
        self._bar.add_task("", total=n_steps, completed=trainer.global_step, said="")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Refresh the line now and then; without a terminal, print one per validation."""
        module, step = cast(LitLanguageModel, pl_module), trainer.global_step
        if self._bar is None:
            if step % module.config.training.val_every == 0 or step == module.n_steps:
                line = f"step {step}/{module.n_steps}, {self._said(module)}"
                self._console.print(line + self._time_left(module, step), soft_wrap=True)
            return
        if time.perf_counter() - self._shown < _REFRESH and step < module.n_steps:
            return
        self._shown = time.perf_counter()
        self._bar.update(self._bar.task_ids[0], completed=step, said=self._said(module))
        self._bar.refresh()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the line."""
        if self._bar is not None:
            self._bar.stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the line, so that the error starts on its own."""
        self.on_train_end(trainer, pl_module)

    def _time_left(self, module: LitLanguageModel, step: int) -> str:
        left = module.n_steps - step
        return f", about {cli.span(self._milestones.seconds / step * left)} left" if left else ""

    def _said(self, module: LitLanguageModel) -> str:
        validations = self._milestones.history
        validation = f", val/loss {validations[-1][1]['val/loss']:.3f}" if validations else ""
        speed = module.tokens_per_step / self._milestones.seconds_per_step
        return f"loss {module.loss:.3f}{validation}, {speed:,.0f} tokens/s"
