"""What a configuration costs, before anything is trained: parameters, FLOPs, cache bytes.

Nothing here describes a component a second time: parameters are counted on the model built on the
meta device, FLOPs by torch's counter (with the formulas that `hymba_lab.ops` registers), and cache
elements by asking every component that keeps a state (`cache_elements`). A newcomer's component
therefore has its costs for free.
"""

import math
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hymba_lab.config import ModelConfig
from hymba_lab.model import LanguageModel, build_model
from hymba_lab.model.block import Block

CACHE_TOKENS = 8000  # context of the paper's cache column (8000, not 8192)
BYTES_PER_VALUE = 2  # fp16, as in the paper


@runtime_checkable
class Stateful(Protocol):
    """A component that keeps something from token to token when it generates."""

    def cache_elements(self, n_tokens: int) -> int:
        """Return how many values it keeps after `n_tokens`."""
        ...


@dataclass(frozen=True)
class Costs:
    """Parameters [count], forward FLOPs per token [FLOP], cache after 8000 tokens [bytes, fp16].

    `ssm_to_attention` is the paper's ratio: parameters of the mixers without Wq, Wk, Wv, over
    Wq + Wk + Wv; NaN when one of the two is absent.
    """

    params: int
    flops_per_token: float
    cache_bytes: int
    ssm_to_attention: float


def measure_costs(config: ModelConfig, vocab: int, seq_len: int) -> Costs:
    """Return the costs of a model at training length `seq_len` [tokens].

    FLOPs are those of the forward pass over `seq_len` tokens divided by `seq_len`, a multiply-add
    counted as two; meta tokens are paid for by the tokens they precede. Training costs three times
    as much (backward = 2x forward).
    """
    model = meta_model(config, vocab)
    return Costs(
        params=count(model),
        flops_per_token=_forward_flops(model, seq_len) / seq_len,
        cache_bytes=BYTES_PER_VALUE * _cache_elements(model, CACHE_TOKENS),
        ssm_to_attention=_ratio(model),
    )


def meta_model(config: ModelConfig, vocab: int) -> LanguageModel:
    """Build the model without memory for its tensors."""
    with torch.device("meta"):
        return build_model(config, vocab)


def count(module: nn.Module) -> int:
    """Return the number of parameters, shared ones counted once."""
    return sum(p.numel() for p in module.parameters())


def _forward_flops(model: LanguageModel, seq_len: int) -> int:
    tokens = torch.zeros(1, seq_len, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens)
    return int(counter.get_total_flops())


def _cache_elements(model: nn.Module, n_tokens: int) -> int:
    stateful = (module for module in model.modules() if isinstance(module, Stateful))
    return sum(module.cache_elements(n_tokens) for module in stateful)


def _ratio(model: LanguageModel) -> float:
    mixers = [cast(Block, block).mixer for block in model.blocks]
    attention = sum(count(part) for mixer in mixers for part in _named(mixer, "attention"))
    rest = sum(map(count, mixers)) - attention
    has_ssm = any(_named(mixer, "ssm") for mixer in mixers)
    return rest / attention if attention and has_ssm else math.nan


def _named(mixer: nn.Module, name: str) -> list[nn.Module]:
    return [part for key, part in mixer.named_children() if key == name]
