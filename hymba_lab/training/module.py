"""The LightningModule: loss, optimizer, metrics. Nothing of the architecture is known here."""

import math
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hymba_lab.config import Config
from hymba_lab.data.source import Mixture
from hymba_lab.errors import TrialFailed
from hymba_lab.model import LanguageModel
from hymba_lab.optim.optimizers import optimizers
from hymba_lab.optim.schedules import schedules
from hymba_lab.training.micro_rows import rows_at_a_time
from hymba_lab.training.parallel import Sharded, change_blocks, shard_model
from hymba_lab.training.part_graph import PartGraph, can_capture
from hymba_lab.training.parts import Part, Step, TrainParts
from hymba_lab.training.scoring import batch_loss
from hymba_lab.training.validation import evaluate
from hymba_lab.training.world import summed, whole, world


class LitLanguageModel(LightningModule):
    """loss = mean over labels of the mean cross-entropy [nats] over the label's scored positions.

    So every label weighs the same, however many positions of it are scored. Batch number s (from 0)
    is a pure function of the seed and s; nothing is drawn from a global generator.
    """

    def __init__(self, model: LanguageModel, mixture: Mixture, config: Config, seed: int) -> None:
        super().__init__()
        self.model, self.mixture, self.config, self.seed = model, mixture, config, seed
        self.n_steps, self.world = config.n_steps, world()
        self._losses = torch.zeros(len(mixture.parts))  # of the last batch, by label
        self._norm = torch.zeros(())  # of its gradient, before clipping
        self._lr = 0.0
        self._micro_rows: int | None = None  # known when training begins
        self._graph: PartGraph | None = None

    @property
    def loss(self) -> float:
        """The training loss of the last batch; on several ranks estimated from this one's rows."""
        return self.world.n_ranks * self._losses.mean().item()

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one batch, those that are not scored included."""
        return self.mixture.rows * self.config.training.seq_len

    def configure_model(self) -> None:
        """Change and shard the blocks as the configuration asks; the trainer calls this once."""
        training, strategy = self.config.training, self.trainer.strategy
        change_blocks(self.model, recompute=training.recompute, compiled=training.compile)
        if isinstance(strategy, Sharded):
            shard_model(self.model, strategy, training.precision)
        elif training.cuda_graph and self.world.n_ranks == 1 and can_capture(self.device):
            self._graph = PartGraph(self.model)

    def train_dataloader(self) -> TrainParts:
        """Return the batches of the steps that are left, as this rank computes them."""
        self._micro_rows = rows_at_a_time(self)
        return TrainParts(
            self.mixture,
            self.seed,
            range(self.trainer.global_step, self.n_steps),
            rank=self.world.rank,
            n_ranks=self.world.n_ranks,
            micro_rows=self._micro_rows,
        )

    def configure_optimizers(self) -> Any:
        """Return the optimizer and the schedule the configuration names."""
        optimizer = optimizers.build(self.config.optimizer, self.model)
        peak = optimizer.param_groups[0]["lr"]
        factor = schedules.build(self.config.schedule, self.n_steps, peak)
        scheduler = {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def training_step(self, batch: Step) -> Tensor:
        """Return the loss of the batch's last part; the gradients of the others are there by then.

        The gradient of a part is the part's addend to that of the batch.
        """
        parts, counts = batch
        self._losses = torch.zeros(len(counts), device=self.device)
        if self._graph is not None and self._graph.takes(parts):
            return self._replayed(self._graph, parts, counts)
        self.zero_grad(set_to_none=self._graph is None or not self._graph.is_made)
        for part in parts[:-1]:
            loss = self.part_loss(part, counts)
            with torch.autocast(self.device.type, enabled=False):
                loss.backward()  # type: ignore[no-untyped-call]
        return self.part_loss(parts[-1], counts)

    def part_loss(self, part: Part, counts: list[int]) -> Tensor:
        """Return R times the share of a part in the loss of its batch of `counts` positions."""
        loss, losses = batch_loss(self.model, *part, counts, self.world.n_ranks)
        self._losses = self._losses + losses
        return loss

    def _replayed(self, graph: PartGraph, parts: list[Part], counts: list[int]) -> Tensor:
        """All gradients are there when it returns; what Lightning goes back from is a leaf."""
        self.zero_grad(set_to_none=False)
        loss = torch.zeros((), device=self.device, requires_grad=True)
        for part in parts:
            last, losses = graph.run(part, counts)
            self._losses = self._losses + losses
        return loss + last

    def optimizer_zero_grad(self, *args: Any) -> None:
        """Do nothing: `training_step` begins with it, before its first part's gradient."""

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm over all gradients; raises `TrialFailed("nan")` before they are used."""
        trained = [
            p for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        if not trained:  # a norm of nothing is finite, and a run that stands still would "finish"
            raise RuntimeError("the backward pass has left no gradient on any parameter")
        norm = get_total_norm([cast(Tensor, p.grad) for p in trained])
        self._norm = whole(norm)
        self._lr = optimizer.param_groups[0]["lr"]
        if not math.isfinite(self._norm.item()):
            step = self.trainer.global_step + 1
            raise TrialFailed("nan", self._diverged(step))
        if gradient_clip_val is not None:
            clip_grads_with_norm_(trained, gradient_clip_val, norm)

    def report(self) -> None:
        """Log the metrics of the step just made."""
        losses = dict(zip(self.mixture.parts, summed(self._losses).tolist(), strict=True))
        metrics = {f"train/{label}_loss": loss for label, loss in losses.items()}
        metrics["train/loss"] = sum(losses.values()) / len(losses)
        self.record({**metrics, "train/lr": self._lr, "train/grad_norm": self._norm.item()})

    def record(self, metrics: dict[str, float]) -> None:
        """Hand metrics to the logger; `self.log` would cost 0.4 ms in every step."""
        if self.logger is not None:
            self.logger.log_metrics(metrics, self.trainer.global_step)

    def measure(self) -> dict[str, float]:
        """Return the validation metrics; a loss that is not finite raises `TrialFailed("nan")`."""
        self.model.eval()
        with self.trainer.precision_plugin.val_step_context():
            metrics = evaluate(self.model, self.mixture, self.device, self._micro_rows)
        self.model.train()
        if not math.isfinite(metrics["val/loss"]):
            what = f"validation loss {metrics['val/loss']}, "
            raise TrialFailed("nan", self._diverged(self.trainer.global_step, what))
        return metrics

    def _diverged(self, step: int, what: str = "") -> str:
        training = self.config.training
        ways = ["a lower optimizer.lr", "a longer schedule.warmup"]
        ways += [] if training.grad_clip else ["training.grad_clip: 1.0"]
        ways += ["training.precision: fp32"] if training.precision != "fp32" else []
        return (
            f"step {step} of {self.n_steps}: {what}training loss "
            f"{self.loss:.4g}, gradient norm {self._norm.item():.4g} at learning "
            f"rate {self._lr:.3g}; try {', '.join(ways)}."
        )
