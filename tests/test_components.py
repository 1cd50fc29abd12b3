"""The contract that every entry of every axis keeps; a new entry is picked up by itself.

`WIRES` says once per axis how its modules are built and fed. A newcomer needs nothing here; options
without a default take their value from `examples.py`.
"""

import copy
import json
import pickle
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from examples import EXAMPLES, REGISTRIES, VARIANTS, spec_of
from pydantic import TypeAdapter
from torch import Tensor, nn

from hymba_lab.components.attention import attentions
from hymba_lab.components.fusion import fusions
from hymba_lab.components.heads import AttentionHeads
from hymba_lab.components.meta_tokens import MetaTokens, meta_tokens
from hymba_lab.components.mlp import mlps
from hymba_lab.components.short_conv import ShortConv, short_convs
from hymba_lab.components.ssm import ssms
from hymba_lab.registry import Spec

D_MODEL, D_INNER, N_TOKENS = 8, 16, 11


class Wired(NamedTuple):
    """A module and what it does to x (B, T, d_in)."""

    module: nn.Module
    apply: Callable[[Tensor], Tensor]
    d_in: int
    d_out: int


def wire_fusion(spec: Spec) -> Wired:
    module = fusions.build(spec, D_INNER, D_INNER, D_MODEL)
    return Wired(module, lambda x: module(*x.chunk(2, dim=-1)), 2 * D_INNER, D_MODEL)


def wire_meta_tokens(spec: Spec) -> Wired:
    module = meta_tokens.build(spec, D_MODEL)
    assert isinstance(module, MetaTokens)

    def summed(x: Tensor) -> Tensor:  # the sum over time stands for the layers
        return module.drop(module.add(x).cumsum(1))

    return Wired(module, summed, D_MODEL, D_MODEL)


def wire_attention(spec: Spec) -> Wired:
    heads = AttentionHeads(n_heads=4, n_kv_heads=2, d_head=4, d_head_v=6)
    module = attentions.build(spec, D_MODEL, heads, 5, 2, True)
    return Wired(module, lambda x: module(x, None)[0], D_MODEL, heads.d_out)


def wire_ssm(spec: Spec) -> Wired:
    module = ssms.build(spec, D_MODEL, D_INNER)
    return Wired(module, module, D_MODEL, D_INNER)


def wire_short_conv(spec: Spec) -> Wired:
    plan = short_convs.build(spec)
    assert plan is not None
    module = ShortConv(D_MODEL, plan.d_conv)
    return Wired(module, module, D_MODEL, D_MODEL)


def wire_mlp(spec: Spec) -> Wired:
    module = mlps.build(spec, D_MODEL)
    assert module is not None
    return Wired(module, module, D_MODEL, D_MODEL)


WIRES: dict[str, Callable[[Spec], Wired]] = {
    "model.fusion": wire_fusion,
    "model.meta_tokens": wire_meta_tokens,
    "model.attention": wire_attention,
    "model.ssm": wire_ssm,
    "model.mlp": wire_mlp,
    "model.short_conv": wire_short_conv,
}
FUNCTIONS = {
    "model.heads", "model.order", "model.placement", "model.kv_sharing", "model.topology",
}  # fmt: skip
ELSEWHERE = {"data", "optimizer", "schedule"}  # their laws are in the tests of data and training

ENTRIES = [(path, name) for path, registry in REGISTRIES.items() for name in registry]
MODULES = [(path, name) for path, name in ENTRIES if path in WIRES and name != "none"]
MODULES += list(VARIANTS)
every_entry = pytest.mark.parametrize(("path", "name"), ENTRIES)
every_module = pytest.mark.parametrize(("path", "name"), MODULES)


def wired(path: str, name: str, seed: int = 0) -> Wired:
    torch.manual_seed(seed)
    return WIRES[path](spec_of(path, name))


def inputs(d_in: int, n_rows: int = 2) -> Tensor:
    return torch.randn(n_rows, N_TOKENS, d_in, generator=torch.Generator().manual_seed(1))


def test_every_axis_has_its_laws() -> None:
    assert set(REGISTRIES) == set(WIRES) | FUNCTIONS | ELSEWHERE, "a new axis: say how it is built"


def test_the_table_names_no_entry_that_is_gone() -> None:
    assert set(EXAMPLES) <= set(ENTRIES)


@every_entry
def test_options_survive_writing_and_reading(path: str, name: str) -> None:
    spec = spec_of(path, name)
    schema = TypeAdapter(REGISTRIES[path].schema())
    written = json.dumps(spec.model_dump(mode="json"))
    again = schema.validate_json(written)
    assert again == spec == copy.deepcopy(spec)
    assert type(again) is type(spec)
    assert json.loads(written).keys() == {"name", *REGISTRIES[path].options(name)}


@every_entry
def test_an_entry_says_what_it_does(path: str, name: str) -> None:
    assert (REGISTRIES[path].entry(name).__doc__ or "").strip()


@pytest.mark.parametrize("path", ["model.meta_tokens", "model.mlp"])
def test_off_is_none(path: str) -> None:
    assert REGISTRIES[path].build(spec_of(path, "none"), D_MODEL) is None


@every_module
def test_shape(path: str, name: str) -> None:
    module = wired(path, name)
    y = module.apply(inputs(module.d_in))
    assert y.shape == (2, N_TOKENS, module.d_out)
    assert y.dtype == torch.float32 and y.isfinite().all()


@every_module
@pytest.mark.parametrize("changed", [0, 4, N_TOKENS - 1])
def test_a_token_changes_nothing_before_it(path: str, name: str, changed: int) -> None:
    module = wired(path, name)
    x = inputs(module.d_in)
    other = x.clone()
    other[:, changed] += torch.randn_like(other[:, changed])
    difference = (module.apply(x) - module.apply(other)).abs().amax(dim=(0, 2))
    assert difference[:changed].le(1e-6).all()
    assert difference[changed] > 1e-5


@every_module
def test_rows_do_not_see_each_other(path: str, name: str) -> None:
    module = wired(path, name)
    x = inputs(module.d_in, n_rows=3)
    alone = torch.cat([module.apply(row) for row in x.split(1)])
    torch.testing.assert_close(module.apply(x), alone, rtol=1e-5, atol=1e-6)


@every_module
def test_the_gradient_reaches_every_parameter(path: str, name: str) -> None:
    module = wired(path, name)
    x = inputs(module.d_in).requires_grad_()
    y = module.apply(x)
    (y * torch.randn_like(y)).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().amax(dim=(0, 1)).gt(0).all(), "a channel of the input is not read"
    parameters = dict(module.module.named_parameters())
    assert parameters
    for label, parameter in parameters.items():
        assert parameter.grad is not None, f"{label} takes no part"
        assert parameter.grad.isfinite().all(), label
        assert parameter.grad.abs().sum() > 0, f"{label} has no influence"


@every_module
def test_the_same_seed_gives_the_same_result(path: str, name: str) -> None:
    first, second = wired(path, name), wired(path, name)
    x = inputs(first.d_in)
    assert torch.equal(first.apply(x), second.apply(x))
    assert torch.equal(first.apply(x), first.apply(x))  # nothing is kept between calls


@every_module
def test_the_weights_are_the_whole_state(path: str, name: str) -> None:
    first, second = wired(path, name, seed=0), wired(path, name, seed=1)
    second.module.load_state_dict(first.module.state_dict())
    x = inputs(first.d_in)
    assert torch.equal(first.apply(x), second.apply(x))


@every_module
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))]
)
def test_a_copy_is_equal_and_shares_nothing(
    path: str, name: str, copied: Callable[[nn.Module], nn.Module]
) -> None:
    module = wired(path, name).module
    twin = copied(module)
    mine, theirs = module.state_dict(), twin.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert not {p.data_ptr() for p in module.parameters()} & {
        p.data_ptr() for p in twin.parameters()
    }


@every_module
def test_bfloat16_autocast_trains(path: str, name: str) -> None:
    module = wired(path, name)
    x = inputs(module.d_in)
    exact = module.apply(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module.apply(x)
    torch.testing.assert_close(y.float(), exact, rtol=0.1, atol=0.1)
    y.float().square().sum().backward()
    for parameter in module.module.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None and parameter.grad.isfinite().all()


@every_module
def test_costs_are_counted_without_memory(path: str, name: str) -> None:
    real = wired(path, name)
    with torch.device("meta"):
        module = WIRES[path](spec_of(path, name))
        y = module.apply(torch.empty(2, N_TOKENS, module.d_in))
    assert y.is_meta and y.shape == (2, N_TOKENS, module.d_out)
    shapes = {key: value.shape for key, value in module.module.state_dict().items()}
    assert shapes == {key: value.shape for key, value in real.module.state_dict().items()}
