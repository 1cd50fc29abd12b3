"""A block that is computed again in the backward pass is the same block, whatever its order."""

from functools import partial
from typing import Any, cast

import pytest
import torch
from examples import model_config
from hf_folders import lab_model
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from hymba_lab.errors import UserError
from hymba_lab.hf.blocks import RecomputedBlock, recomputable
from hymba_lab.hf.cache import new_cache
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


@pytest.mark.parametrize("topology", ["sa_m", "sam", "s_a_m"])
def test_blocks_have_names_that_others_find(topology: str) -> None:
    model = lab_model(n_layers=2, topology={"name": topology})
    kinds = {type(block).__name__ for block in model.model.net.blocks}
    assert kinds <= set(model._no_split_modules)


def test_values_of_the_first_layer_do_not_keep_blocks_from_being_recomputed() -> None:
    attention = {"name": "softmax", "value_residual": True}
    model, plain = (lab_model(n_layers=3, attention=attention).train() for _ in range(2))
    calls: list[None] = []
    for block in model.model.net.blocks:
        block.gradient_checkpointing = True
        block._gradient_checkpointing_func = partial(counted, calls)
    ids = torch.tensor([[1, 2, 3, 4]])
    for one in (model, plain):
        one(ids, labels=ids).loss.backward()
    assert len(calls) == 3
    for (name, own), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, msg=name)


def counted(calls: list[None], *given: Any) -> Any:
    calls.append(None)
    return checkpoint(*given, use_reentrant=False)


def test_the_cache_has_its_old_name_too() -> None:
    model = lab_model()
    ids = torch.tensor([[1, 2, 3, 4]])
    out = model(ids[:, :3], use_cache=True)
    found = model(ids[:, 3:], past_key_values=out.cache).logits
    torch.testing.assert_close(found[:, 0], model(ids).logits[:, 3])
    with pytest.raises(UserError, match="the cache is a DynamicCache"):
        model(ids, past_key_values=DynamicCache())
    with pytest.raises(UserError, match="the cache is a DynamicCache"):
        model.generate(ids, cache=DynamicCache(), max_new_tokens=2)
    with pytest.raises(UserError, match="two names of one thing"):
        model(ids, cache=out.cache, past_key_values=model(ids, use_cache=True).cache)


def test_a_model_on_several_devices_has_no_cache() -> None:
    model = lab_model(n_layers=2)
    model.model.net.blocks[1].to("meta")
    with pytest.raises(UserError, match=r"several devices \(cpu, meta\) and its cache on one"):
        new_cache(model.model.net, torch.tensor([[1, 2, 3]]))
