"""The four figures that a table of results shows of every row."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from torch import nn

from hymba_lab.config import ModelConfig
from hymba_lab.cost.cache import cache_elements
from hymba_lab.cost.flops import forward_flops
from hymba_lab.cost.layers import measured
from hymba_lab.cost.model import count
from hymba_lab.model import LanguageModel
from hymba_lab.model.block import Block

CACHE_TOKENS = 8000  # context of the paper's cache column (8000, not 8192)
BYTES_PER_VALUE = 2  # fp16, as in the paper


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

    return costs_of(measured(config, vocab, lambda model: sums(model, seq_len)), seq_len)


def sums(model: LanguageModel, seq_len: int) -> dict[str, int]:
    """Return what `costs_of` makes costs of: sums over the layers of a model on the meta device."""
    return {
        "params": count(model),
        "flops": sum(forward_flops(model, seq_len).values()),
        "cache": cache_elements(model, CACHE_TOKENS),
        **_mixer_params(model),
    }


def costs_of(found: Mapping[str, int], seq_len: int) -> Costs:
    """Return the costs whose `sums` are these."""
    return Costs(
        params=found["params"],
        flops_per_token=found["flops"] / seq_len,
        cache_bytes=BYTES_PER_VALUE * found["cache"],
        ssm_to_attention=_ratio(found),
    )


def ssm_to_attention(model: LanguageModel) -> float:
    """Return the parameters of all mixers but Wq, Wk, Wv over those; NaN without both branches."""
    return _ratio(_mixer_params(model))


def _mixer_params(model: LanguageModel) -> dict[str, int]:
    mixers = [cast(Block, block).mixer for block in model.blocks]
    attention = sum(count(part) for mixer in mixers for part in _named(mixer, "attention"))
    return {
        "attention": attention,
        "rest": sum(map(count, mixers)) - attention,
        "n_ssm": sum(len(_named(mixer, "ssm")) for mixer in mixers),
    }


def _ratio(found: Mapping[str, int]) -> float:
    both = found["attention"] and found["n_ssm"]
    return found["rest"] / found["attention"] if both else math.nan


def paper_ratio(model: LanguageModel) -> float:
    """Return the ratio by the paper's accounting; NaN unless some layer has both branches.

    Wq + Wk + Wv against everything else in the mixer, which is the same in all its rows: the SSM,
    two norms of d_inner and the projection from d_inner to d_model, whatever the fusion is.
    (Derived from the rows 2-5 of table 10; the ratios of rows 9 and 11 do not come out.)
    """
    d_model = model.embedding.embedding_dim
    attention = rest = 0
    for layer, block in zip(model.plan, model.blocks, strict=True):
        if layer.heads.attention and layer.heads.d_inner:
            mixer = cast(Block, block).mixer
            attention += count(mixer.get_submodule("attention"))
            rest += count(mixer.get_submodule("ssm")) + layer.heads.d_inner * (2 + d_model)
    return rest / attention if attention else math.nan


def _named(mixer: nn.Module, name: str) -> list[nn.Module]:
    return [part for key, part in mixer.named_children() if key == name]
