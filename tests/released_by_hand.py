"""The released model written out once more, slowly: loops over tokens and heads, no code of ours.

From the description of the released block alone, in float64. It reads the tensors by their released
names and the values of `config.json`, so that loader and model are checked together.
"""

import math
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def logits_by_hand(config: dict[str, Any], weights: Weights, tokens: list[int]) -> Tensor:
    """Return logits (T, vocab) of one text."""
    weights = {name: tensor.double() for name, tensor in weights.items()}
    n_meta, eps = config["num_memory_tokens"], config["rms_norm_eps"]
    x = weights["model.embed_tokens.weight"][tokens]
    if n_meta:
        x = torch.cat([weights["model.memory_tokens"], x])
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    for layer in range(config["num_hidden_layers"]):
        start = f"model.layers.{layer}."
        here = {n.removeprefix(start): t for n, t in weights.items() if n.startswith(start)}
        x = x + mixer(config, here, layer, norm(x, here["input_layernorm.weight"], eps), kept)
        if config["intermediate_size"]:
            x = x + mlp(config, here, norm(x, here["pre_moe_layernorm.weight"], eps))
    x = norm(x, weights["model.final_layernorm.weight"], eps)[n_meta:]
    tied = config["tie_word_embeddings"]
    return x @ weights["model.embed_tokens.weight" if tied else "lm_head.weight"].T


def mixer(
    config: dict[str, Any],
    weights: Weights,
    layer: int,
    x: Tensor,
    kept: dict[int, tuple[Tensor, Tensor]],
) -> Tensor:
    """Both branches of one layer, their mean and the output projection."""
    d_model, n_heads = config["hidden_size"], config["num_attention_heads"]
    n_kv = config["num_key_value_heads"] or n_heads
    d_inner = config["mamba_expand"] * d_model
    d_head, d_head_v = d_model // n_heads, d_inner // n_heads
    producer = next((g[0] for g in config["kv_reuse_group"] or [] if layer in g), layer)
    widths = [n_heads * d_head, n_kv * d_head, n_kv * d_head_v, d_inner, d_inner]
    if producer != layer:
        widths[1:3] = [0, 0]
    q, k, v, u, z = (x @ weights["mamba.in_proj.weight"].T).split(widths, dim=1)
    q = rope(config, q.unflatten(1, (n_heads, d_head)))
    if producer == layer:
        k = rope(config, k.unflatten(1, (n_kv, d_head)))
        kept[layer] = k, v.unflatten(1, (n_kv, d_head_v))
    attended = attention(config, layer, q, *kept[producer])
    eps = config["rms_norm_eps"]
    a = norm(attended, weights["mamba.pre_avg_layernorm1.weight"], eps)
    s = norm(mamba(config, weights, u, z), weights["mamba.pre_avg_layernorm2.weight"], eps)
    return (a + s) / 2 @ weights["mamba.out_proj.weight"].T


def attention(config: dict[str, Any], layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Query by query and head by head: (T, H, P), (T, K, P), (T, K, V) -> (T, H V)."""
    n_tokens, n_heads, d_head = q.shape
    full = config["sliding_window"] is None or layer in config["global_attn_idx"]
    rows = []
    for t in range(n_tokens):
        seen = [
            s
            for s in range(t + 1)
            if full or t - s <= config["sliding_window"] or s < config["num_memory_tokens"]
        ]
        heads = []
        for head in range(n_heads):
            shared = head // (n_heads // k.shape[1])
            scores = [float(q[t, head] @ k[s, shared]) / math.sqrt(d_head) for s in seen]
            p = torch.tensor(scores, dtype=torch.float64).softmax(0)
            heads.append(sum(p[i] * v[s, shared] for i, s in enumerate(seen)))
        rows.append(torch.cat(heads))
    return torch.stack(rows)


def rope(config: dict[str, Any], x: Tensor) -> Tensor:
    """Turn channel i and i + P/2 of (T, heads, P) by position * theta^(-2i/P)."""
    if not config["rope"]:
        return x
    n_tokens, _, width = x.shape
    theta = float(config["rope_theta"])
    if config["rope_type"] == "ntk":
        longest, first = config["max_position_embeddings"], config["orig_max_position_embeddings"]
        theta *= (2 * longest / first - 1) ** (width / (width - 2))
    turned = x.clone()
    for t in range(n_tokens):
        for i in range(width // 2):
            angle = t / theta ** (2 * i / width)
            one, other = x[t, :, i], x[t, :, i + width // 2]
            turned[t, :, i] = one * math.cos(angle) - other * math.sin(angle)
            turned[t, :, i + width // 2] = other * math.cos(angle) + one * math.sin(angle)
    return turned


def mamba(config: dict[str, Any], weights: Weights, u: Tensor, z: Tensor) -> Tensor:
    """The convolution and the recurrence, token by token: u, z (T, D) -> (T, D)."""
    n_taps, n_states, eps = config["mamba_d_conv"], config["mamba_d_state"], config["rms_norm_eps"]
    taps, bias = weights["mamba.conv1d.weight"][:, 0], weights["mamba.conv1d.bias"]
    A = -weights["mamba.A_log.0"].exp()
    h = torch.zeros_like(A)
    rows = []
    for t in range(len(u)):
        c = bias.clone()
        for tap in range(n_taps):
            if (place := t - n_taps + 1 + tap) >= 0:
                c = c + taps[:, tap] * u[place]
        c = c * torch.sigmoid(c)
        mixed = weights["mamba.x_proj.0.weight"] @ c
        parts = list(mixed.split([len(mixed) - 2 * n_states, n_states, n_states]))
        if config["mamba_inner_layernorms"]:
            for i, name in enumerate(("dt", "B", "C")):
                parts[i] = norm(parts[i], weights[f"mamba.{name}_layernorm.weight"], eps)
        dt, B, C = parts
        dt = weights["mamba.dt_proj.0.weight"] @ dt + weights["mamba.dt_proj.0.bias"]
        delta = torch.log1p(dt.exp())
        h = torch.exp(delta[:, None] * A) * h + (delta * c)[:, None] * B
        rows.append((h @ C + weights["mamba.D.0"] * c) * z[t] * torch.sigmoid(z[t]))
    return torch.stack(rows)


def mlp(config: dict[str, Any], weights: Weights, x: Tensor) -> Tensor:
    """SwiGLU, or one squared ReLU."""
    up = x @ weights["moe.experts.0.up_proj.weight"].T
    if config["mlp_hidden_act"] == "relu2":
        inside = up.clamp(min=0) ** 2
    else:
        gate = x @ weights["moe.experts.0.gate_proj.weight"].T
        inside = gate * torch.sigmoid(gate) * up
    return inside @ weights["moe.experts.0.down_proj.weight"].T


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight
