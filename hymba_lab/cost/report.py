"""All costs of one configuration, as one object that prints and serializes."""

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from hymba_lab.config import Config
from hymba_lab.cost.activations import BYTES_PER_PARAM, activation_bytes
from hymba_lab.cost.cache import cache_elements, held_bytes, paper_bytes, released_bytes
from hymba_lab.cost.flops import BACKWARD, decoding_flops, forward_flops
from hymba_lab.cost.layers import folded_model, measured
from hymba_lab.cost.memory import device_memory
from hymba_lab.cost.model import count, params_by_part
from hymba_lab.cost.totals import CACHE_TOKENS, paper_ratio, ssm_to_attention
from hymba_lab.errors import ConfigError
from hymba_lab.model import LanguageModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

CONVENTIONS = {
    "ratio": "All of the mixers but Wq, Wk, Wv over those. The paper's: every mixer as if the mean "
    "joined two branches of d_inner.",
    "flops": "A multiply-add is 2 FLOPs. Counted: matrix products, convolutions, attention over "
    "visible pairs of query and key, 9 per state, channel and token of a scan. Not counted: norms, "
    "activations, softmax. Backward = 2 x forward. Meta tokens are paid for by the tokens of their "
    "sequence.",
    "decoding": "One token behind the context: projections once, attention over what it sees.",
    "paper": "FP16 and S = 8000 tokens; meta tokens in full layers only; sharing layers in pairs "
    "count half; window - 1 keys (the paper's window); no convolution state beside attention.",
    "released": "FP16 as the released code: also meta tokens in window layers, one cache a group, "
    "d_conv inputs of the convolution.",
    "held": "This lab's cache for one sequence: window + meta keys, none in consumers, d_conv - 1 "
    "inputs, SSM states in fp32 at least.",
    "activations": "Estimate for one row: what autograd saves with fused attention and scan. "
    "Weights, gradients and AdamW take 16 bytes a parameter besides (18 in bf16-mixed).",
}  # fmt: skip


@dataclass(frozen=True)
class Report:
    """Costs of one configuration; FLOPs are per token, caches and memory in bytes."""

    name: str
    vocab: int
    layers: list[dict[str, Any]]
    params: dict[str, int]
    ssm_to_attention: float
    ssm_to_attention_paper: float
    seq_len: int  # tokens of a training sequence
    forward_flops: dict[str, float]
    context: int  # tokens before the one decoded, and in the cache held
    decoding_flops: dict[str, float]
    dtype: str
    cache_paper: float
    cache_released: int
    cache_held: int
    precision: str
    activations_per_row: int
    training_state: int
    device_memory: int  # of a training step as the file asks for it

    @property
    def n_params(self) -> int:
        """All parameters."""
        return sum(self.params.values())

    def as_json(self) -> dict[str, Any]:
        """Return plain data with totals and conventions; no value is nan."""
        data = asdict(self)
        for name in ("ssm_to_attention", "ssm_to_attention_paper"):
            data[name] = None if math.isnan(data[name]) else data[name]
        forward = sum(self.forward_flops.values())
        return {
            **data,
            "params_total": self.n_params,
            "forward_flops_total": forward,
            "training_flops_total": (1 + BACKWARD) * forward,
            "training_flops": {k: (1 + BACKWARD) * v for k, v in self.forward_flops.items()},
            "decoding_flops_total": sum(self.decoding_flops.values()),
            "conventions": CONVENTIONS,
        }


def report(config: Config, vocab: int, *, context: int, dtype: str) -> Report:
    """Return the costs of `config` with `context` >= 1 tokens before a decoded one.

    Raises `ConfigError` with file:line:column for a shape whose parts do not fit.
    """
    try:
        model = folded_model(config.model, vocab)
    except ConfigError as error:
        raise config.blame(error) from None
    training = config.training
    row = (training.seq_len, training.precision)
    forward = measured(config.model, vocab, partial(forward_flops, n_tokens=training.seq_len))
    decoding = measured(config.model, vocab, partial(decoding_flops, context=context))
    params = measured(config.model, vocab, params_by_part)
    return Report(
        name=config.name,
        vocab=vocab,
        layers=layer_rows(model, context),
        params=params,
        ssm_to_attention=ssm_to_attention(model),
        ssm_to_attention_paper=paper_ratio(model),
        seq_len=training.seq_len,
        forward_flops={part: n / training.seq_len for part, n in forward.items()},
        context=context,
        decoding_flops={part: float(n) for part, n in decoding.items()},
        dtype=dtype,
        cache_paper=paper_bytes(config.model, model, CACHE_TOKENS),
        cache_released=released_bytes(config.model, model, CACHE_TOKENS),
        cache_held=held_bytes(config.model, vocab, context, DTYPES[dtype]),
        precision=training.precision,
        activations_per_row=activation_bytes(config.model, vocab, *row),
        training_state=BYTES_PER_PARAM[training.precision] * sum(params.values()),
        device_memory=device_memory(config, vocab).total,
    )


def layer_rows(model: LanguageModel, context: int) -> list[dict[str, Any]]:
    """Return the plan, a dict per layer, with its parameters and the values it keeps."""
    rows = []
    for layer, block in zip(model.plan, model.blocks, strict=True):
        attention = layer.heads.attention
        rows.append(
            {
                "layer": layer.index,
                "kind": layer.kind,
                "n_heads": attention and attention.n_heads,
                "n_kv_heads": attention and attention.n_kv_heads,
                "d_head": attention and attention.d_head,
                "d_head_v": attention and attention.d_head_v,
                "d_inner": layer.heads.d_inner,
                "window": layer.window,
                "kv_from": layer.kv_from,
                "params": count(block),
                "cache_elements": cache_elements(block, context),
            }
        )
    return rows
