"""Our Hymba against the released code: a small checkpoint and what that code answers to it.

`data/hymba_tiny` holds random weights under the released names, token ids, and the logits and
greedy continuation that the released implementation computes from them in float32;
`data/hymba_1p5b_config.json` is the configuration of the published model.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hymba_lab.components.placement import placements
from hymba_lab.config import ModelConfig, load_config
from hymba_lab.cost import measure_costs
from hymba_lab.model import LanguageModel, build_model, plan_layers

DATA = Path(__file__).parent / "data"
FOLDER = DATA / "hymba_tiny"
TOLERANCE = 2e-4
N_PROMPT = 7  # tokens of the first row that the greedy continuation starts from

NAMES = {
    "norm1.weight": "input_layernorm.weight",
    "mixer.fusion.norm_attn.weight": "mamba.pre_avg_layernorm1.weight",
    "mixer.fusion.norm_ssm.weight": "mamba.pre_avg_layernorm2.weight",
    "mixer.fusion.out.weight": "mamba.out_proj.weight",
    "mixer.ssm.conv_bias": "mamba.conv1d.bias",
    "mixer.ssm.dt_b_c.weight": "mamba.x_proj.0.weight",
    "mixer.ssm.norms.0.weight": "mamba.dt_layernorm.weight",
    "mixer.ssm.norms.1.weight": "mamba.B_layernorm.weight",
    "mixer.ssm.norms.2.weight": "mamba.C_layernorm.weight",
    "mixer.ssm.dt.weight": "mamba.dt_proj.0.weight",
    "mixer.ssm.dt.bias": "mamba.dt_proj.0.bias",
    "mixer.ssm.A_log": "mamba.A_log.0",
    "mixer.ssm.D": "mamba.D.0",
    "norm2.weight": "pre_moe_layernorm.weight",
    "mlp.gate.weight": "moe.experts.0.gate_proj.weight",
    "mlp.up.weight": "moe.experts.0.up_proj.weight",
    "mlp.down.weight": "moe.experts.0.down_proj.weight",
}


def architecture(released: dict[str, Any]) -> dict[str, Any]:
    """The architecture in our words, from the values of the released configuration."""
    n_heads, d_model = released["num_attention_heads"], released["hidden_size"]
    d_inner = released["mamba_expand"] * d_model
    stretched = 2 * released["max_position_embeddings"] / released["orig_max_position_embeddings"]
    return {
        "d_model": d_model,
        "n_layers": released["num_hidden_layers"],
        "tie_embeddings": released["tie_word_embeddings"],
        "norm_eps": released["rms_norm_eps"],
        "heads": {
            "name": "hybrid",
            "n_heads": n_heads,
            "n_kv_heads": released["num_key_value_heads"],
            "d_head": d_model // n_heads,
            "d_head_v": d_inner // n_heads,
            "expand": released["mamba_expand"],
        },
        "order": {"name": "parallel"},
        "fusion": {"name": "mean"},
        "meta_tokens": {"name": "learned", "n_meta": released["num_memory_tokens"]},
        "placement": {
            "name": "explicit",
            "window": released["sliding_window"] + 1,  # theirs: q - k <= 8; ours counts the query
            "full": released["global_attn_idx"],
        },
        "kv_sharing": {"name": "explicit", "groups": released["kv_reuse_group"]},
        "attention": {
            "name": "softmax",
            "rope_theta": released["rope_theta"],
            "rope_scale": stretched - 1,
        },
        "ssm": {
            "name": "mamba1",
            "d_state": released["mamba_d_state"],
            "d_conv": released["mamba_d_conv"],
            "dt_rank": released["mamba_dt_rank"],
        },
        "mlp": {"name": "swiglu", "d_ff": released["intermediate_size"]},
    }


def renamed(weights: dict[str, Tensor], model: LanguageModel) -> Iterator[tuple[str, Tensor]]:
    """Our name and the tensor, for every tensor of the released checkpoint."""
    taken = {
        "embedding.weight": weights["model.embed_tokens.weight"],
        "meta.tokens": weights["model.memory_tokens"],
        "norm.weight": weights["model.final_layernorm.weight"],
    }
    yield from taken.items()
    for layer in model.plan:
        prefix = f"model.layers.{layer.index}."
        here = {
            key.removeprefix(prefix): value
            for key, value in weights.items()
            if key.startswith(prefix)
        }
        attention, d_inner = layer.heads.attention, layer.heads.d_inner
        assert attention is not None and d_inner is not None
        widths = {"attention.q": attention.n_heads * attention.d_head}
        if layer.owns_kv:
            widths["attention.k"] = attention.n_kv_heads * attention.d_head
            widths["attention.v"] = attention.n_kv_heads * attention.d_head_v
        widths |= {"ssm.x": d_inner, "ssm.z": d_inner}
        parts = here["mamba.in_proj.weight"].split(list(widths.values()))
        ours = {f"mixer.{name}.weight": part for name, part in zip(widths, parts, strict=True)}
        ours["mixer.ssm.conv_weight"] = here["mamba.conv1d.weight"].squeeze(1)
        ours |= {name: here[theirs] for name, theirs in NAMES.items()}
        yield from ((f"blocks.{layer.index}.{name}", value) for name, value in ours.items())


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return load_file(FOLDER / "model.safetensors")


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(FOLDER / "expected.safetensors")


def loaded(tiny: Path, weights: dict[str, Tensor], other: dict[str, Any]) -> LanguageModel:
    """The released weights in our model; `other` options may leave the published architecture."""
    released = json.loads((FOLDER / "config.json").read_text())
    overrides = [f"model={json.dumps(architecture(released))}"]
    overrides += [f"model.{path}={json.dumps(value)}" for path, value in other.items()]
    config = load_config(tiny, overrides)
    model = build_model(config.model, released["vocab_size"])
    model.load_state_dict(dict(renamed(weights, model)))  # strict: every name, every shape
    return model.eval()


@pytest.fixture
def model(tiny: Path, weights: dict[str, Tensor]) -> LanguageModel:
    return loaded(tiny, weights, {})


def test_every_released_number_has_a_place(
    model: LanguageModel, weights: dict[str, Tensor]
) -> None:
    assert sum(p.numel() for p in model.parameters()) == sum(w.numel() for w in weights.values())


@torch.no_grad()
def test_logits_equal_the_released_code(model: LanguageModel, expected: dict[str, Tensor]) -> None:
    logits = model(expected["input_ids"])
    torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_greedy_continuation_equals_the_released_code(
    model: LanguageModel, expected: dict[str, Tensor]
) -> None:
    given = expected["greedy_ids"]
    tokens = given[:, :N_PROMPT]
    torch.testing.assert_close(tokens, expected["input_ids"][:1, :N_PROMPT], rtol=0, atol=0)
    while tokens.shape[1] < given.shape[1]:
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    assert tokens.tolist() == given.tolist()


@torch.no_grad()
@pytest.mark.parametrize(
    "other",
    [
        {"placement.window": 8},
        {"placement.full": [0, 4, 5]},
        {"attention.rope_scale": 1.0},
        {"fusion": {"name": "difference"}},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_departure_from_the_released_model_shows(
    tiny: Path, weights: dict[str, Tensor], expected: dict[str, Tensor], other: dict[str, Any]
) -> None:
    """The tolerance is tight enough to tell the published model from its neighbours."""
    model = loaded(tiny, weights, other)
    difference = (model(expected["input_ids"]) - expected["logits"]).abs().max()
    assert difference > 50 * TOLERANCE


# --- the published 1.5B model


@pytest.fixture
def published(tiny: Path) -> ModelConfig:
    released = json.loads((DATA / "hymba_1p5b_config.json").read_text())
    return load_config(tiny, [f"model={json.dumps(architecture(released))}"]).model


def test_the_published_plan(published: ModelConfig) -> None:
    plan = plan_layers(published)
    assert [layer.index for layer in plan if layer.window is None] == [0, 15, 31]
    assert {layer.window for layer in plan} == {None, 1025}
    assert {layer.kind for layer in plan} == {"parallel"}
    assert [layer.kv_from for layer in plan] == [
        *[0, 1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15],
        *[16, 16, 16, 19, 19, 21, 21, 23, 23, 25, 25, 27, 27, 29, 29, 31],
    ]
    assert sum(layer.owns_kv for layer in plan) == 17
    (heads,) = {layer.heads for layer in plan}
    assert heads.d_inner == 3200 and heads.attention is not None
    assert (heads.attention.n_heads, heads.attention.n_kv_heads) == (25, 5)
    assert (heads.attention.d_head, heads.attention.d_head_v) == (64, 128)


def test_the_published_placement_has_a_name(published: ModelConfig) -> None:
    windows = placements.build(placements.spec("first_middle_last", window=1025), 32)
    assert windows == [layer.window for layer in plan_layers(published)]


def test_the_published_costs(published: ModelConfig) -> None:
    costs = measure_costs(published, 32001, 64)
    assert costs.params == 1_522_797_824
    # The released code holds 81.879 MB: 1024 keys where the mask shows 1025, and 4 inputs of the
    # convolution where 3 are enough.
    released = 2 * (3 * 8128 * 960 + 14 * (128 + 1024) * 960 + 32 * 3200 * (16 + 4))
    assert round(released / 1e6, 3) == 81.879
    assert costs.cache_bytes == released + 2 * (14 * 960 - 32 * 3200)


def test_the_published_rope_base(published: ModelConfig) -> None:
    with torch.device("meta"):
        model = build_model(published, 32001)
    assert model.blocks[0].mixer.attention.rope_theta == pytest.approx(74534.83, abs=0.01)
