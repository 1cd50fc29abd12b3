"""The models of transformers beside which `train_step.py` puts ours: equal in number of parameters.

All have width 256, four layers, four heads with two key heads, tied embeddings; the MLP is as wide
as the number of parameters takes.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hymba_lab.cost import count

D_MODEL, N_LAYERS, VOCAB = 256, 4, 512


def llama(d_ff: int) -> nn.Module:
    """Attention in every layer, without a window."""
    return _built("Llama", **_shape(d_ff))


def falcon_h1(d_ff: int) -> nn.Module:
    """Attention beside Mamba-2 in every layer, in the proportions of the published 0.5B.

    Inner width 1.5 d_model in heads of 64, 128 states, chunks of 128 tokens.
    """
    return _falcon_h1(d_ff, d_inner=384, d_state=128)


def falcon_h1_small_state(d_ff: int) -> nn.Module:
    """The same with our inner width and our 16 states, which its form for CPUs likes better."""
    return _falcon_h1(d_ff, d_inner=512, d_state=16)


def jamba(d_ff: int) -> nn.Module:
    """Three Mamba-1 layers and one of attention, without experts; its form without CUDA."""
    layers = {"attn_layer_period": 4, "attn_layer_offset": 2}
    return _built("Jamba", **_shape(d_ff), **layers, num_experts=1, num_experts_per_tok=1)


PEERS: dict[str, Callable[[int], nn.Module]] = {
    make.__name__: make for make in (llama, falcon_h1, falcon_h1_small_state, jamba)
}


def peer_of(kind: str, n_params: int) -> nn.Module:
    """Return the model with `n_params` parameters within 1 %, or raise `ValueError`."""
    make = PEERS[kind]
    with torch.device("meta"):
        narrow, wide = count(make(8)), count(make(16))
        d_ff = 8 + round((n_params - narrow) * 8 / (wide - narrow))
        found = count(make(d_ff))
    if d_ff < 1 or abs(found / n_params - 1) > 0.01:
        raise ValueError(f"no MLP width gives {n_params} parameters within 1 % (found {found})")
    return make(d_ff).train()


def _shape(d_ff: int) -> dict[str, int]:
    """What all of them are given alike."""
    return {
        "vocab_size": VOCAB,
        "hidden_size": D_MODEL,
        "intermediate_size": d_ff,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }


def _falcon_h1(d_ff: int, d_inner: int, d_state: int) -> nn.Module:
    mamba = {"mamba_d_ssm": d_inner, "mamba_n_heads": d_inner // 64, "mamba_d_state": d_state}
    return _built("FalconH1", **_shape(d_ff), **mamba, mamba_chunk_size=128)


def _built(name: str, **options: int) -> nn.Module:
    """Return the untrained language model of this family, its embeddings tied."""
    library: Any = importlib.import_module("transformers")  # optional: its types may be absent
    library.utils.logging.set_verbosity_error()
    config = getattr(library, f"{name}Config")(**options, tie_word_embeddings=True)
    model: nn.Module = getattr(library, f"{name}ForCausalLM")(config)
    return model
