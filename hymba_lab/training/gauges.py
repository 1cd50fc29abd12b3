"""How well a run uses its GPUs, beside its losses in MLflow: speed, share of the peak, memory."""

from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from hymba_lab.cost import measure_costs
from hymba_lab.cost.cards import peak_flops
from hymba_lab.cost.flops import BACKWARD
from hymba_lab.training.milestones import Milestones
from hymba_lab.training.module import LitLanguageModel


class Gauges(Callback):
    """Logs `perf/tokens_per_second_per_device`, `perf/mfu`, `perf/peak_memory_gb` on CUDA devices.

    mfu = tokens a second * training FLOPs a token / peak rate of matrix products in the run's
    precision; it is left out for a card that `hymba_lab.cost.cards` does not know. A block computed
    again does not count as work. The peak is that of this rank since the start, in 10^9 bytes.
    """

    def __init__(self, milestones: Milestones) -> None:
        """Reads the speed off `milestones`, which must come before it."""
        self._milestones = milestones
        self._flops = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Log with the losses."""
        module, step = cast(LitLanguageModel, pl_module), trainer.global_step
        due = step % module.config.training.log_every == 0 or step == module.n_steps
        if due and module.device.type == "cuda" and module.logger is not None:
            module.record(self.read(module, torch.cuda.get_device_name(module.device)))

    def read(self, module: LitLanguageModel, device_name: str) -> dict[str, float]:
        """Return the figures of the steps so far on a device of that name."""
        if not self._flops:
            training, vocab = module.config.training, module.mixture.vocab
            costs = measure_costs(module.config.model, vocab, training.seq_len)
            self._flops = (1 + BACKWARD) * costs.flops_per_token
        rate = module.tokens_per_step / self._milestones.seconds_per_step / module.world.n_ranks
        found = {"perf/tokens_per_second_per_device": rate}
        peak = peak_flops(device_name, module.config.training.precision)
        if peak is not None:
            found["perf/mfu"] = rate * self._flops / peak
        if module.device.type == "cuda":
            found["perf/peak_memory_gb"] = torch.cuda.max_memory_allocated(module.device) / 1e9
        return found
