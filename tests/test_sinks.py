"""A sink is one key more in the softmax, whatever form of attention runs; a gate is a product."""

import math
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from examples import model_config
from torch import Tensor, nn

from hymba_lab.components.attention import SoftmaxAttention
from hymba_lab.components.heads import AttentionHeads
from hymba_lab.errors import ConfigError
from hymba_lab.model import LanguageModel, build_model
from hymba_lab.ops import attention, attention_flex, attention_step, kernels
from hymba_lab.ops.attention import ATTENTION
from hymba_lab.ops.attention_flex import flex_attention
from hymba_lab.ops.masks import attention_mask
from hymba_lab.training.parallel import change_blocks


def concatenated(
    q: Tensor, k: Tensor, v: Tensor, sink: Tensor, window: int | None, n_meta: int, q_start: int = 0
) -> Tensor:
    """The softmax over the scores with the sink's beside them, in float64, its weight left out."""
    q, k, v, sink = (t.double() for t in (q, k, v, sink))
    group = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(group, 1) for t in (k, v))
    scores = q @ k.mT / math.sqrt(q.shape[3])
    seen = attention_mask(q, k.shape[2], window, n_meta, q_start)
    scores = scores.masked_fill(~seen, -torch.inf)
    beside = sink[None, :, None, None].expand(*scores.shape[:3], 1)
    return torch.cat([scores, beside], 3).softmax(3)[..., :-1] @ v


def tensors(T: int, S: int, P: int, V: int, seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    q, k = torch.randn(2, 4, T, P), torch.randn(2, 2, S, P)
    return [q, k, torch.randn(2, 2, S, V), torch.randn(4)]


def compare(call: Callable[..., Tensor], reference: Callable[..., Tensor], inputs: Any) -> None:
    found = [t.clone().requires_grad_() for t in inputs]
    exact = [t.clone().double().requires_grad_() for t in inputs]
    out, expected = call(*found), reference(*exact)
    torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=1e-6)
    arriving = torch.randn_like(out)
    grads = torch.autograd.grad(out, found, arriving)
    right = torch.autograd.grad(expected, exact, arriving.double())
    for grad, own in zip(grads, right, strict=True):
        torch.testing.assert_close(grad.double(), own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("P", "V"), [(8, 16), (5, 6)], ids=["kernel", "torch"])
@pytest.mark.parametrize(("window", "n_meta"), [(None, 0), (7, 0), (7, 3), (100, 2)])
def test_a_sink_equals_the_concatenated_softmax(
    kernel_build: str, P: int, V: int, window: int | None, n_meta: int
) -> None:
    def call(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
        return attention(q, k, v, window=window, n_meta=n_meta, sink=sink)

    def reference(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
        return concatenated(q, k, v, sink, window, n_meta)

    compare(call, reference, tensors(33, 33, P, V))


@pytest.mark.parametrize("window", [None, 6])
def test_a_chunk_after_kept_keys_has_the_sink_too(window: int | None) -> None:
    q, k, v, sink = tensors(5, 21, 8, 8)
    out = attention(q, k, v, window=window, n_meta=2, q_start=16, sink=sink)
    expected = concatenated(q, k, v, sink, window, 2, 16)
    torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=1e-6)


def test_a_step_sees_the_sink_and_the_keys_of_its_row() -> None:
    q, k, v, sink = tensors(1, 9, 8, 16)
    n_keys = torch.tensor([9, 4])
    out = attention_step(q, k, v, n_keys, sink=sink)
    for row, n in enumerate(n_keys.tolist()):
        own = (q[row, None], k[row, None, :, :n], v[row, None, :, :n])
        expected = concatenated(*own, sink, None, 0, n - 1)
        torch.testing.assert_close(out[row, None].double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_weighs_by_its_log_sum() -> None:
    q, k, v, sink = tensors(20, 20, 16, 16)
    out = flex_attention(q, k, v, window=6, n_meta=2, scale=16**-0.5, sink=sink)
    expected = concatenated(q, k, v, sink, 6, 2)
    torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_on_a_gpu_a_sink_in_a_full_layer_takes_the_same_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A layer without a window hides nothing: its window is the whole text."""
    monkeypatch.setattr(attention_flex, "fits", lambda q, v: True)
    flex = ATTENTION.implementations["flex"]
    with_flex = {**ATTENTION.implementations, "flex": replace(flex, missing=lambda: None)}
    monkeypatch.setattr(ATTENTION, "implementations", with_flex)
    calls = []

    def seen(*given: Any) -> Any:
        calls.append(given[3])
        return flex_attention(*given)

    monkeypatch.setattr(import_module("hymba_lab.ops.attention"), "flex_attention", seen)
    monkeypatch.setattr(ATTENTION, "choose", lambda *_: "sdpa")  # as a GPU has it, without windows
    q, k, v, sink = tensors(20, 20, 16, 16)
    out = attention(q, k, v, window=None, n_meta=2, sink=sink)
    expected = concatenated(q, k, v, sink, None, 2)
    torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=1e-6)
    assert calls == [20]


def test_a_sink_far_below_every_score_changes_nothing_and_far_above_takes_all() -> None:
    q, k, v, _ = tensors(12, 12, 8, 8)
    plain = attention(q, k, v, window=5, n_meta=1)
    low = attention(q, k, v, window=5, n_meta=1, sink=torch.full((4,), -60.0))
    torch.testing.assert_close(low, plain, rtol=1e-6, atol=1e-6)
    high = attention(q, k, v, window=5, n_meta=1, sink=torch.full((4,), 60.0))
    assert high.abs().max() < 1e-20


def module(window: int | None = None, **options: Any) -> SoftmaxAttention:
    torch.manual_seed(0)
    heads = AttentionHeads(n_heads=4, n_kv_heads=2, d_head=8, d_head_v=8)
    return SoftmaxAttention(16, heads, window, 0, True, **options)


def test_parameters_of_the_options_by_hand() -> None:
    def count(**options: Any) -> int:
        return sum(p.numel() for p in module(**options).parameters())

    plain = count()
    assert plain == 16 * (4 * 8 + 2 * 8 + 2 * 8)
    assert count(output_gate="elementwise") - plain == 16 * 4 * 8
    assert count(output_gate="per_head") - plain == 16 * 4
    assert count(sink="learned") - plain == 4 and count(sink="off_by_one") == plain
    assert count(qk_norm=True) - plain == 2 * 8
    assert count(rope_share=0.5) == count(rope_layers="full") == plain


def test_an_output_gate_multiplies_what_attention_returns() -> None:
    gated, x = module(output_gate="per_head"), torch.randn(2, 9, 16)
    plain = module()
    plain.load_state_dict(gated.state_dict(), strict=False)
    assert gated.gate is not None
    share = torch.sigmoid(gated.gate(x)).repeat_interleave(8, dim=2)
    torch.testing.assert_close(gated(x)[0], plain(x)[0] * share)


def test_values_are_added_to_those_of_the_first_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """v_l + g_l v_1 in every layer that makes values, v_1 before anything was added to it."""
    config = model_config(
        n_layers=4,
        heads={"name": "attention_only", "n_heads": 4, "n_kv_heads": 2, "d_head": 8},
        attention={"name": "softmax", "value_residual": True},
        kv_sharing={"name": "explicit", "groups": [[2, 3]]},
    )
    torch.manual_seed(0)
    model = build_model(config, 32)
    made: list[Tensor] = []
    used: list[Tensor] = []
    for block in model.blocks:
        branch = block.mixer.attention
        if branch.owns_kv:
            branch.value_residual.data.normal_()
            branch.v.register_forward_hook(lambda *call: made.append(call[2]))

    def attend(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        used.append(v)
        return attention(q, k, v, **options)

    monkeypatch.setattr("hymba_lab.components.past.attention", attend)
    model(torch.randint(32, (2, 7)))
    own = [v.view(2, 7, 2, 8).transpose(1, 2) for v in made]
    shares = [
        block.mixer.attention.value_residual.view(2, 1, 1)
        for block in model.blocks
        if block.mixer.attention.owns_kv
    ]
    expected = [v + share * own[0] for v, share in zip(own, shares, strict=True)]
    for found, value in zip(used, [*expected, expected[2]], strict=True):
        torch.testing.assert_close(found, value, rtol=0, atol=0)


def test_first_values_of_other_heads_are_refused() -> None:
    heads = {"name": "attention_only", "n_heads": 4, "d_head": 8}
    config = model_config(
        attention={"name": "softmax", "value_residual": True},
        heads=heads, layers=[{"at": [1], "heads": {**heads, "n_kv_heads": 1}}],
    )  # fmt: skip
    with pytest.raises(ConfigError, match="layer 0, 4 heads of 8 channels, to those of layer 1, 1"):
        build_model(config, 32)(torch.randint(32, (1, 5)))


def test_values_of_the_first_layer_survive_a_second_computation_of_a_block() -> None:
    """Blocks computed again in the backward give the gradients of those that are kept."""
    config = model_config(n_layers=3, attention={"name": "softmax", "value_residual": True})
    torch.manual_seed(0)
    model, tokens = build_model(config, 32), torch.randint(32, (2, 9))
    model(tokens).square().mean().backward()
    kept = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    change_blocks(model, recompute=True, compiled=False)
    model(tokens).square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, kept[name])


def test_positions_by_kind_of_layer() -> None:
    x = torch.randn(1, 9, 16)
    nope = module(rope_theta=None)(x)[0]
    for rope_layers, window, turned in (
        ("window", None, False), ("window", 20, True), ("full", None, True), ("full", 20, False),
    ):  # fmt: skip
        out = module(window, rope_layers=rope_layers)(x)[0]
        assert torch.allclose(out, nope, atol=1e-6) != turned, (rope_layers, window)


def test_partial_rope_turns_the_first_channels_only() -> None:
    x = torch.randn(1, 9, 16)
    whole, half = module(), module(rope_share=0.5)
    k_whole, k_half = (m.keys_values(x)[0] for m in (whole, half))
    raw = module(rope_theta=None).keys_values(x)[0]
    assert torch.equal(k_half[..., 4:], raw[..., 4:])
    assert not torch.allclose(k_half[:, :, 1:, :4], raw[:, :, 1:, :4])
    assert not torch.allclose(k_whole[:, :, 1:, 4:], raw[:, :, 1:, 4:])


def test_a_share_that_leaves_no_pair_is_refused() -> None:
    from hymba_lab.errors import ConfigError

    with pytest.raises(ConfigError, match=r"rope_share = 0\.1 of d_head = 8 is 0\.8 channels"):
        module(rope_share=0.1)


def test_an_option_that_is_off_costs_no_operation() -> None:
    """The default is the code without options: the same kernels, in the same order."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Ops(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    def plain(m: SoftmaxAttention, x: Tensor) -> Tensor:
        from hymba_lab.ops.rotary import rotate

        def split(t: Tensor) -> Tensor:
            return t.view(*t.shape[:2], -1, 8).transpose(1, 2)

        q = rotate(split(m.q(x)), range(9), 10_000.0)
        k, v = rotate(split(m.k(x)), range(9), 10_000.0), split(m.v(x))
        return attention(q, k, v, window=None, n_meta=0).transpose(1, 2).flatten(2)

    attend, x = module(), torch.randn(1, 9, 16)
    attend(x)  # tables that are kept
    with Ops() as own:
        attend(x)
    with Ops() as expected:
        plain(attend, x)
    assert own.names == expected.names


@pytest.mark.skipif(kernels.missing() is not None, reason="no kernel was built")
def test_a_model_with_sinks_trains_through_the_kernel() -> None:
    attend: dict[str, Any] = {"name": "softmax", "sink": "learned", "output_gate": "per_head"}
    heads = {"name": "hybrid", "n_heads": 4, "n_kv_heads": 2, "d_head": 8}
    model = build_model(model_config(attention=attend, heads=heads), 11)
    model(torch.randint(0, 11, (2, 8))).square().sum().backward()
    sinks = [p for name, p in model.named_parameters() if name.endswith("sink")]
    assert len(sinks) == 2 and all(p.grad is not None and p.grad.abs().sum() > 0 for p in sinks)


def test_attention_from_elsewhere_gets_the_first_layer_s_values_too() -> None:
    """Only what had a parameter of this package's name got them; the others their own."""
    model = build_model(model_config(n_layers=3), 16)
    assert not model._looks_down

    class Elsewhere(nn.Module):
        """Of another module than the package's."""

    blocks = list(model.blocks)
    blocks[1].mixer.attention = Elsewhere()
    looking = LanguageModel(
        model.embedding, model.meta, blocks, model.norm, model.head, model.plan, model.config
    )
    assert looking._looks_down
