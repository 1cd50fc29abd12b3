"""What happens between the steps of a Trainer: layers drawn, logs, whole checkpoints."""

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback

from hymba_lab.errors import StoreError, TrialFailed


class Logged(Protocol):
    """What gets the metrics of a step."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...  # noqa: D102


WHOLE = "whole"
"""A file in a checkpoint that was written to its end."""


class LayersDrawn(TrainerCallback):
    """LISA (arXiv:2403.17919): `n_layers` blocks are trained at a time, others every `every` steps.

    What stands outside of blocks (embeddings, head, meta tokens, last norm) is always trained. The
    draw is a function of seed and step, so that a training that goes on goes on with it. Layers are
    frozen when the optimizer has been made over all of them: one made later would never train the
    rest. The moments of a layer are dropped with it, which is what saves the memory.
    """

    def __init__(self, blocks: Any, n_layers: int, every: int, seed: int) -> None:
        self._blocks, self._n_layers, self._every, self._seed = list(blocks), n_layers, every, seed
        self._drawn: list[int] | None = None

    def drawn(self, step: int) -> list[int]:
        """Return the blocks that are trained at a step (counted from 0)."""
        draw = random.Random(f"{self._seed}/{step // self._every}")
        return sorted(draw.sample(range(len(self._blocks)), self._n_layers))

    def on_step_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any
    ) -> None:
        """Freeze all blocks but those drawn."""
        drawn = self.drawn(state.global_step)
        if drawn == self._drawn:
            return
        self._drawn = drawn
        for number, block in enumerate(self._blocks):
            for parameter in block.parameters():
                parameter.requires_grad_(number in drawn)
                if number not in drawn:
                    parameter.grad = None
                    optimizer.state.pop(parameter, None)


class Checkpoints(TrainerCallback):
    """Marks a checkpoint that is whole, so that one cut short by a kill is never gone on from."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the one just written."""
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()


def last_checkpoint(folder: Path) -> Path | None:
    """Return the latest whole checkpoint of a folder."""
    found = [mark.parent for mark in folder.glob(f"checkpoint-*/{WHOLE}")]
    return max(found, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """Return the step that a checkpoint's folder is named by."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


class Logs(TrainerCallback):
    """Prints what is logged, writes it to MLflow, and ends a training whose loss is no number."""

    def __init__(self, run: Logged | None, told: Callable[[str], None]) -> None:
        self._run, self._told = run, told
        self._begun: tuple[float, int] | None = None
        self.last: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock; what was logged before a resume counts."""
        self._begun = (time.monotonic(), state.global_step)
        self.recall(state.log_history)

    def recall(self, history: Sequence[Mapping[str, float]]) -> None:
        """Take what an earlier process logged as the last of its kind, the latest at the end."""
        for logs in history:
            self._remember({_named(name): value for name, value in logs.items() if _kept(name)})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Have the last step logged, too."""
        control.should_log |= state.global_step >= state.max_steps

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Raise `TrialFailed` for a loss that is not finite."""
        values = {_named(name): value for name, value in (logs or {}).items() if _kept(name)}
        self._remember(values)
        self._log(values, state.global_step)
        loss = values.get("train/loss", values.get("val/loss"))
        if loss is None:
            return
        if not math.isfinite(loss):
            raise TrialFailed(
                "nan", f"the loss is {loss} at step {state.global_step}; lower lr, or clip more."
            )
        name = "val/loss" if "val/loss" in values else "loss"
        self._told(
            f"step {state.global_step}/{state.max_steps}  {name} {loss:.4f}{self._left(state)}"
        )

    def _remember(self, values: Mapping[str, float]) -> None:
        self.last |= {name: v for name, v in values.items() if math.isfinite(v)}

    def _log(self, values: dict[str, float], step: int) -> None:
        if self._run is None:
            return
        try:
            self._run.log(values, step)
        except StoreError as error:  # the folder is the truth: training goes on
            self._told(f"not in MLflow from here on: {error}")
            self._run = None

    def _left(self, state: Any) -> str:
        if self._begun is None or state.global_step <= self._begun[1]:
            return ""
        begun, first = self._begun
        seconds = (time.monotonic() - begun) / (state.global_step - first)
        left = seconds * (state.max_steps - state.global_step)
        return f"  about {left / 60:.0f} min left" if left >= 90 else f"  about {left:.0f} s left"


def _kept(name: str) -> bool:
    """Whether it is a measurement and not a total of the whole training."""
    return not name.startswith(("train_", "total_")) and "_per_second" not in name


def _named(name: str) -> str:
    """Return a metric under the lab's way of naming."""
    known = {"loss": "train/loss", "learning_rate": "lr", "eval_loss": "val/loss"}
    if name in known:
        return known[name]
    if name.startswith("eval_"):
        return "val/" + name.removeprefix("eval_")
    return name if "/" in name else f"train/{name}"
