"""Architectures that mix everything by layer: decoding, padding, blocks, patterns, refusals."""

import random
from typing import Any

import pytest
import torch
from examples import model_config

from hymba_lab.config import ModelConfig
from hymba_lab.cost import count, meta_model
from hymba_lab.cost.cache import held_bytes
from hymba_lab.cost.flops import forward_flops
from hymba_lab.cost.model import PARTS, params_by_part
from hymba_lab.errors import ConfigError
from hymba_lab.model import LanguageModel, build_model, plan_layers

VOCAB = 19
SSMS: list[dict[str, Any]] = [
    {"name": "mamba1", "d_state": 3},
    {"name": "mamba2", "d_state": 4, "d_head": 8, "n_groups": 2},
    {"name": "mamba2", "d_state": 4, "d_head": 4, "norm": False},
    {"name": "mamba3", "d_state": 6, "d_head": 8, "n_groups": 2},
    {"name": "mamba3", "d_state": 3, "d_head": 4, "rope_share": 1.0},
    {"name": "gated_delta", "d_head": 4, "expand_v": 2},
    {"name": "gated_delta", "d_head": 8, "expand_v": 1, "heads_per_key": 2},
    {"name": "kimi_delta", "d_head": 8},
    {"name": "gla", "d_head": 4, "expand_v": 2, "gate_rank": 3},
]


def drawn(seed: int) -> ModelConfig:
    """A random architecture of four layers; every other one has parts of its own."""
    draw = random.Random(seed)
    shared = draw.random() < 0.5

    def keys() -> dict[str, Any]:
        return {
            "qk_norm": draw.random() < 0.5,
            "rope_share": draw.choice([1.0, 0.5]),
            "rope_layers": draw.choice(["all", "full", "window"]),
        }

    of_all = keys()

    def attention() -> dict[str, Any]:
        return {
            "name": "softmax",
            **(of_all if shared else keys()),
            "sink": draw.choice([None, "learned", "off_by_one"]),
            "output_gate": draw.choice([None, "elementwise", "per_head"]),
            "qkv_conv": draw.choice([None, 3]),
            "value_residual": draw.random() < 0.5,
        }

    d_head = draw.choice([8, 4])
    heads = {"name": "hybrid", "n_heads": 4, "n_kv_heads": 2, "d_head": d_head, "d_head_v": 8}
    layers = [
        {"at": [layer], "ssm": draw.choice(SSMS), "attention": attention()}
        for layer in range(4)
        if draw.random() < 0.5
    ]
    placement: dict[str, Any] = {"name": "every", "window": 3, "period": 2}
    meta = {"name": "learned", "n_meta": 2}
    return model_config(
        n_layers=4,
        heads=heads,
        order={"name": "pattern", "pattern": "".join(draw.choices("spa", k=4))},
        placement=draw.choice([placement, {"name": "all_full"}]),
        kv_sharing={"name": "adjacent", "size": 2, "full": True} if shared else {"name": "none"},
        meta_tokens=draw.choice([{"name": "none"}, meta]),
        fusion=draw.choice([{"name": "mean"}, {"name": "concat"}, {"name": "gate"}]),
        attention=attention(),
        ssm=draw.choice(SSMS),
        short_conv=draw.choice([{"name": "none"}, {"name": "canon", "d_conv": 3}]),
        topology={"name": draw.choice(["sa_m", "sam", "s_a_m"])},
        layers=layers,
    )


def model_of(config: ModelConfig, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    model = build_model(config, VOCAB)
    for parameter in model.parameters():  # away from starts that hide a fault, as zeros do
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize("seed", range(60))
def test_token_by_token_equals_the_whole_text_padded_rows_included(seed: int) -> None:
    model = model_of(drawn(seed))
    lengths = torch.tensor([7, 4])
    tokens = torch.randint(0, VOCAB, (2, 13), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        expected = [model(row[None, : n + 6]) for row, n in zip(tokens, lengths, strict=True)]
        cache = model.cache(2, 13)
        first = model.logits(model.features(tokens[:, :7], cache, lengths))
        for row, n in enumerate(lengths.tolist()):
            close(first[row, :n], expected[row][0, :n])
        for step in range(6):
            place = lengths + step
            token = tokens[torch.arange(2), place][:, None]
            logits = model.logits(model.features(token, cache))
            for row, at in enumerate(place.tolist()):
                close(logits[row, 0], expected[row][0, at])


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(0, 60, 10))
def test_costs_of_a_mix_are_those_of_the_model_and_its_cache(seed: int) -> None:
    config = drawn(seed)
    model, meta = model_of(config), meta_model(config, VOCAB)
    assert count(meta) == count(model) == sum(params_by_part(meta).values())
    flops = forward_flops(meta, 9)
    assert all(flops[part] >= 0 for part in PARTS) and flops["head"] == 2 * 9 * 16 * VOCAB
    assert held_bytes(config, VOCAB, 13, torch.float32) == model.cache(1, 13).nbytes


def test_a_later_axis_that_is_absent_is_off() -> None:
    config = model_config()
    assert (config.short_conv.name, config.topology.name, config.layers) == ("none", "sa_m", ())
    assert config.at(0) is config


def test_layers_replace_parts_where_they_say() -> None:
    wide = {"name": "hybrid", "n_heads": 2, "d_head": 8, "expand": 3}
    layers = [{"at": [1, 2], "ssm": {"name": "gla", "d_head": 4}}, {"at": [2], "heads": wide}]
    config = model_config(n_layers=4, layers=layers)
    names = [config.at(layer).ssm.name for layer in range(4)]
    assert names == ["mamba1", "gla", "gla", "mamba1"]
    assert [plan.heads.d_inner for plan in plan_layers(config)] == [32, 32, 48, 32]


def test_a_layer_that_is_not_there_is_refused() -> None:
    config = model_config(layers=[{"at": [0, 7], "mlp": {"name": "none"}}])
    with pytest.raises(ConfigError, match=r"at: \[0, 7\] names a layer that is none of 0\.\.1"):
        plan_layers(config)


def test_a_consumer_of_other_heads_is_refused() -> None:
    other = {"name": "hybrid", "n_heads": 4, "n_kv_heads": 4, "d_head": 6}
    sharing = {"name": "adjacent", "size": 2, "full": True}
    config = model_config(kv_sharing=sharing, layers=[{"at": [1], "heads": other}])
    with pytest.raises(ConfigError, match="layer 1 reads keys and values of layer 0"):
        plan_layers(config)


@pytest.mark.parametrize("option", [{"rope_theta": 5e5}, {"rope_theta": None}, {"qk_norm": True}])
def test_a_consumer_that_asks_otherwise_than_keys_were_made_is_refused(
    option: dict[str, Any],
) -> None:
    sharing = {"name": "adjacent", "size": 2, "full": True}
    other = {"at": [1], "attention": {"name": "softmax", **option}}
    config = model_config(kv_sharing=sharing, layers=[other])
    (name,) = option
    with pytest.raises(ConfigError, match=f"layer 1 reads the keys of layer 0, .* {name} ="):
        plan_layers(config)
    plan_layers(model_config(kv_sharing={"name": "none"}, layers=[other]))
    gated = {"at": [1], "attention": {"name": "softmax", "output_gate": "per_head"}}
    plan_layers(model_config(kv_sharing=sharing, layers=[gated]))


def test_a_pattern_fits_a_whole_number_of_times() -> None:
    kinds = [plan.kind for plan in plan_layers(patterned("SSA sp", 10))]
    assert kinds == ["ssm", "ssm", "attention", "ssm", "parallel"] * 2
    with pytest.raises(ConfigError, match=r"has 3 letters, n_layers is 4"):
        plan_layers(patterned("SSA", 4))


def patterned(pattern: str, n_layers: int) -> ModelConfig:
    return model_config(n_layers=n_layers, order={"name": "pattern", "pattern": pattern})


@pytest.mark.parametrize("name", ["sam", "s_a_m"])
def test_the_order_inside_a_layer(name: str) -> None:
    """One layer by hand from its own parts."""
    model = model_of(model_config(n_layers=1, topology={"name": name}))
    (block,), x = model.blocks, torch.randn(2, 5, 16)
    y, _ = block(x)
    mixer = block.mixer
    if name == "sam":
        n = block.norm1(x)
        expected = x + mixer(n, None)[0] + block.mlp(n)
        assert block.norm2 is None
    else:
        h = x + mixer.out_ssm(mixer.ssm(block.norm1(x)))
        h = h + mixer.out_attn(mixer.attention(block.norm_attn(h))[0])
        expected = h + block.mlp(block.norm2(h))
    torch.testing.assert_close(y, expected)


def test_a_short_convolution_adds_four_numbers_per_channel() -> None:
    plain = count(meta_model(model_config(), VOCAB))
    both = model_config(short_conv={"name": "canon"})
    assert count(meta_model(both, VOCAB)) - plain == 2 * 2 * 16 * 4
    one = model_config(short_conv={"name": "canon", "before": ["mlp"], "d_conv": 3})
    assert count(meta_model(one, VOCAB)) - plain == 2 * 16 * 3
    conv = model_config(attention={"name": "softmax", "qkv_conv": 4})
    assert count(meta_model(conv, VOCAB)) - plain == 2 * 4 * (4 * 6 + 2 * 6 + 2 * 8)


@pytest.mark.slow
@pytest.mark.parametrize("ssm", SSMS, ids=lambda ssm: "-".join(map(str, ssm.values())))
def test_a_model_in_float64_is_computed_in_float64(ssm: dict[str, Any]) -> None:
    """Decays, too: else a difference quotient of small steps sees their rounding."""
    torch.manual_seed(0)
    heads = {"name": "ssm_only", "expand": 2}
    model = build_model(model_config(n_layers=1, heads=heads, ssm=ssm), VOCAB).double()
    mixer = model.blocks[0].mixer.ssm
    x = torch.randn(1, 4, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mixer, x, eps=1e-6, atol=1e-7, rtol=1e-4)
