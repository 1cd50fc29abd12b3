"""A configuration of ours as the released `config.json`, where it has words for it."""

import math
from typing import Any

import torch
from pydantic import ValidationError

from hymba_lab.checkpoints.hf_config import Released, convert
from hymba_lab.config import ModelConfig
from hymba_lab.errors import CheckpointError, ConfigError
from hymba_lab.model.plan import LayerPlan, plan_layers

_COVERED = {
    "fusion": ("mean",),
    "attention": ("softmax",),
    "ssm": ("mamba1",),
    "mlp": ("swiglu", "relu2", "none"),
    "meta_tokens": ("learned", "none"),
}


def describe(
    config: ModelConfig, vocab: int, max_tokens: int | None, dtype: torch.dtype
) -> dict[str, Any]:
    """Return the content of `config.json`; `max_tokens` is the longest text [tokens], if known.

    Raises `CheckpointError` with all that the released architecture has no words for.
    """
    values = _values(config, vocab, max_tokens)
    d_inner = values["mamba_expand"] * values["hidden_size"]
    # the released flex attention insists on meta tokens; without them its others mask alike
    attention = "flex" if values["num_memory_tokens"] else "sdpa"
    return {
        "architectures": ["HymbaForCausalLM"],
        "model_type": "hymba",
        **values,
        "attention_dropout": 0.0,
        "attn_hidden_size": -1,
        "attn_implementation": attention,
        "attn_implementation_new": attention,
        "conv_dim": {str(layer): d_inner for layer in range(config.n_layers)},
        "initializer_range": config.init_std,
        "kq_head_dim": -1,
        "kq_norm": "none",
        "kv_reuse_every_i_layer": -1,
        "kv_weight_reuse": False,
        "layer_type": ["h"] * config.n_layers,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        "memory_tokens_interspersed_every": 0,
        "num_experts": 1,
        "num_experts_per_tok": 1,
        "num_mamba": 1,
        "seq_length": values["max_position_embeddings"],
        "torch_dtype": str(dtype).removeprefix("torch."),
        "use_cache": False,
        "v_head_dim": d_inner // values["num_attention_heads"],
    }


def _values(config: ModelConfig, vocab: int, max_tokens: int | None) -> dict[str, Any]:
    """Return the values from which `convert` makes `config` again."""
    plan = plan_layers(config)
    faults = [
        f"{slot}: {getattr(config, slot).name}"
        for slot, names in _COVERED.items()
        if getattr(config, slot).name not in names
    ]
    if {layer.kind for layer in plan} != {"parallel"}:
        faults.append(f"order: {config.order.name} with layers that are not parallel")
    if faults:
        raise _uncovered(faults)
    values = _sizes(config, vocab) | _layers(plan) | _positions(config, max_tokens)
    try:
        faults = _differences(convert(Released(**values)), config)
    except (ValidationError, ConfigError) as error:
        faults = [str(error)]
    if faults:
        raise _uncovered(faults)
    return values


def _sizes(config: ModelConfig, vocab: int) -> dict[str, Any]:
    heads, ssm = config.heads.options(), config.ssm.options()
    return {
        "vocab_size": vocab,
        "hidden_size": config.d_model,
        "intermediate_size": config.mlp.options().get("d_ff", 0),
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": heads["n_heads"],
        "num_key_value_heads": heads["n_kv_heads"] or heads["n_heads"],
        "tie_word_embeddings": config.tie_embeddings,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "mlp_hidden_act": "relu2" if config.mlp.name == "relu2" else "silu",
        "num_memory_tokens": config.meta_tokens.options().get("n_meta", 0),
        "mamba_expand": heads["expand"],
        "mamba_d_state": ssm["d_state"],
        "mamba_d_conv": ssm["d_conv"],
        "mamba_dt_rank": ssm["dt_rank"] or math.ceil(config.d_model / 16),
        "mamba_inner_layernorms": ssm["inner_norms"],
    }


def _layers(plan: list[LayerPlan]) -> dict[str, Any]:
    window = max((layer.window or 0) for layer in plan)
    readers = [[other.index for other in plan if other.kv_from == layer.index] for layer in plan]
    return {
        "sliding_window": window - 1 if window else None,
        "global_attn_idx": [layer.index for layer in plan if layer.window is None],
        "kv_reuse_group": [group for group in readers if len(group) > 1],
    }


def _positions(config: ModelConfig, max_tokens: int | None) -> dict[str, Any]:
    attention = config.attention.options()
    scale = attention["rope_scale"]
    limit = max_tokens or round(1024 * (scale + 1))
    return {
        "rope": attention["rope_theta"] is not None,
        "rope_theta": attention["rope_theta"] or 10_000.0,
        "rope_type": "default" if scale == 1 else "ntk",
        "max_position_embeddings": limit,
        "orig_max_position_embeddings": round(2 * limit / (scale + 1)),
    }


def _differences(again: ModelConfig, config: ModelConfig) -> list[str]:
    """Return what the way through the released names has changed, starts of training aside."""
    faults = []
    for slot in ("fusion", "attention", "ssm", "mlp"):
        theirs, ours = getattr(again, slot).options(), getattr(config, slot).options()
        if slot == "ssm" and ours["dt_rank"] is None:
            ours["dt_rank"] = theirs["dt_rank"]
        faults += [
            f"{slot}.{key}: {value} (it would be {theirs[key]})"
            for key, value in ours.items()
            if theirs[key] != value
        ]
    if not faults and plan_layers(again) != plan_layers(config):
        faults.append("heads: d_head must be d_model / n_heads, d_head_v d_inner / n_heads")
    return faults


def _uncovered(faults: list[str]) -> CheckpointError:
    return CheckpointError(
        "the released architecture has no words for\n  " + "\n  ".join(faults) + "\nsave such a "
        "model with torch.save or safetensors."
    )
