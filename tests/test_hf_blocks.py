"""A block that is computed again in the backward pass is the same block, whatever its order."""

from typing import cast

import pytest
import torch
from examples import model_config
from torch.utils.checkpoint import checkpoint

from hymba_lab.hf.blocks import RecomputedBlock, recomputable
from hymba_lab.model import build_model
from hymba_lab.model.block import Block


@pytest.mark.parametrize("topology", ["sa_m", "sam", "s_a_m"])
def test_a_recomputed_block_is_the_same_block(topology: str) -> None:
    torch.manual_seed(0)
    model = build_model(model_config(n_layers=1, topology={"name": topology}), 11)
    block, x = cast(Block, model.blocks[0]), torch.randn(2, 5, 16)
    expected, _ = block(x)
    kind = type(block)
    recomputable(block)
    assert isinstance(block, RecomputedBlock) and isinstance(block, kind)
    torch.testing.assert_close(block(x)[0], expected)
    block.gradient_checkpointing = True
    block._gradient_checkpointing_func = lambda *given: checkpoint(*given, use_reentrant=False)
    own, given = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, kv = block.train()(own)
    torch.testing.assert_close(y, expected)
    assert kv is not None
    y.square().sum().backward()
    block.gradient_checkpointing = False
    block(given)[0].square().sum().backward()
    torch.testing.assert_close(own.grad, given.grad)
