"""One model on several devices: copies (DDP) or shards (FSDP2, block by block).

Both average gradients over ranks; losses carry the factor R (`hymba_lab.training.parts`), so that
what comes out is the sum over all rows of the batch. Checkpoints have one form, whole tensors by
name and number, whatever the strategy: a run goes on with another number of ranks.
"""

from typing import Any, cast

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from hymba_lab.config import TrainingConfig
from hymba_lab.model import LanguageModel
from hymba_lab.training.checkpoint import RunCheckpointIO
from hymba_lab.training.shards import split_off
from hymba_lab.training.world import World, sharded_like, whole_on_first


def strategy_of(training: TrainingConfig, world: World) -> Strategy | str:
    """Return Lightning's strategy for a run; "auto" is one process and its device."""
    if training.shard or training.precision == "bf16-true":
        return Sharded(world.n_ranks, training.shard_checkpoints)
    if world.n_ranks == 1:
        return "auto"
    return DDPStrategy(find_unused_parameters=False, gradient_as_bucket_view=True)


class Sharded(ModelParallelStrategy):
    """Parameters, gradients and optimizer state cut over the ranks, gathered block by block."""

    def __init__(self, n_ranks: int, shard_checkpoints: bool) -> None:
        """With `shard_checkpoints` every rank writes its own part of a checkpoint."""
        super().__init__(data_parallel_size=n_ranks, tensor_parallel_size=1)
        self._shard_checkpoints = shard_checkpoints

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True: checkpoints hold the optimizer's state in the form of one process."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return the module's tensors, whole unless they are saved in shards."""
        assert self.lightning_module is not None
        found = self.lightning_module.state_dict()
        return found if self._shard_checkpoints else whole_on_first(found)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the optimizer's state, whole unless it is saved in shards."""
        found = optimizer.state_dict()
        return found if self._shard_checkpoints else whole_on_first(found)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint: the file by rank 0, shards beside it by every rank."""
        if self.is_global_zero:
            cast(RunCheckpointIO, self.checkpoint_io).require()
        saved = split_off(checkpoint, filepath) if self._shard_checkpoints else checkpoint
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(saved, filepath, storage_options)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """Read a checkpoint of any strategy; its tensors are whole."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path)

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        """Give every rank its part of the module's tensors."""
        assert self.lightning_module is not None
        ours = self.lightning_module.state_dict()
        given = {k: sharded_like(v, ours[k]) for k, v in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(given, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """Give every rank its part of the optimizer's state."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            ours = [p for group in optimizer.param_groups for p in group["params"]]
            numbers = [n for group in saved["param_groups"] for n in group["params"]]
            by_number = dict(zip(numbers, ours, strict=True))
            state = {n: sharded_like(one, by_number[n]) for n, one in saved["state"].items()}
            optimizer.load_state_dict({**saved, "state": state})


def shard_model(model: LanguageModel, strategy: Sharded, precision: str) -> None:
    """Cut a model over the strategy's ranks, each block a group of its own, in place.

    bf16-true computes with weights rounded to bfloat16 (all of them, A_log included), and keeps
    weights, gradients between ranks and optimizer state in float32.
    """
    mesh = strategy.device_mesh["data_parallel"]
    policy = MixedPrecisionPolicy()
    if precision == "bf16-true":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # the head reads the embedding's weight after `features` has returned: the root stays gathered
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    register_fsdp_forward_method(model, "features")


def change_blocks(model: LanguageModel, *, recompute: bool, compiled: bool) -> None:
    """Compile the forward pass of every block, and keep of it only what goes in, in place.

    With `recompute` the backward computes a block again: memory of one block's activations and of
    the residual stream between blocks, for about a third more time.
    """
    from torch.utils.checkpoint import checkpoint

    for block in map(_any, model.blocks):
        if compiled:
            block.forward = torch.compile(block.forward, dynamic=False)
        if recompute:
            block.forward = _recomputing(block.forward, checkpoint)


def _recomputing(forward: Any, checkpoint: Any) -> Any:
    def again(*args: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args)
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False)

    return again


def _any(block: nn.Module) -> Any:
    return cast(Any, block)
