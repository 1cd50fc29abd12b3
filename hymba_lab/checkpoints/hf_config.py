"""The released `config.json` as our configuration: the architecture under other names."""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hymba_lab.atomic import json_of
from hymba_lab.components.attention import attentions
from hymba_lab.components.fusion import fusions
from hymba_lab.components.heads import heads
from hymba_lab.components.kv_sharing import kv_sharings
from hymba_lab.components.meta_tokens import meta_tokens
from hymba_lab.components.mlp import mlps
from hymba_lab.components.order import orders
from hymba_lab.components.placement import placements
from hymba_lab.components.ssm import ssms
from hymba_lab.config import ModelConfig
from hymba_lab.errors import CheckpointError, ConfigError
from hymba_lab.model.plan import plan_layers

Positive = Annotated[int, Field(ge=1, le=2**31)]
Count = Annotated[int, Field(ge=0, le=2**31)]


class Released(BaseModel):
    """The values that determine the model; every other key is kept and not read.

    A `Literal` is all that the architecture covers: the released code knows more values than any
    published checkpoint uses. Defaults are those of the released configuration class.
    `v_head_dim` is not among them: the code sets it to d_inner / heads whatever the file says.
    """

    model_config = ConfigDict(strict=True, frozen=True, protected_namespaces=())

    vocab_size: Positive
    hidden_size: Positive
    intermediate_size: Count
    num_hidden_layers: Annotated[int, Field(ge=1, le=2_000)]
    num_attention_heads: Positive
    num_key_value_heads: Positive | None
    tie_word_embeddings: bool = False
    rms_norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    hidden_act: Literal["silu"] = "silu"
    mlp_hidden_act: Literal["silu", "relu2"] = "silu"
    num_experts: Literal[1] = 1
    num_memory_tokens: Count = 0
    memory_tokens_interspersed_every: Literal[0] = 0
    layer_type: list[Literal["h"]] | None = None
    sliding_window: Count | None = None
    global_attn_idx: list[int] | None = None
    kv_reuse_group: list[list[int]] | None = None
    kv_reuse_every_i_layer: int = -1
    kv_weight_reuse: Literal[False] = False
    attn_hidden_size: int = -1
    kq_head_dim: int = -1
    kq_norm: Literal["none"] | None = None
    rope: bool = False
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    rope_type: Literal["default", "ntk"] | None = None
    max_position_embeddings: Positive = 262_144
    orig_max_position_embeddings: Positive | None = None
    num_mamba: Literal[1] = 1
    mamba_expand: Positive = 2
    mamba_d_state: Positive = 16
    mamba_d_conv: Positive = 4
    mamba_dt_rank: Positive | Literal["auto"] = "auto"
    mamba_conv_bias: Literal[True] = True
    mamba_proj_bias: Literal[False] = False
    mamba_inner_layernorms: bool = True


def read_released(path: Path) -> tuple[Released, dict[str, Any]]:
    """Return the values that we read and the whole file; a `CheckpointError` lists all faults."""
    try:
        content = json_of(path)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: there is no such file; give a folder with config.json and weights."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a JSON file ({error}).") from error
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind != "hymba":
        raise CheckpointError(f"{path}: model_type is {kind!r}; this loads 'hymba' only.")
    try:
        return Released.model_validate_json(json.dumps(content)), content
    except ValidationError as error:
        raise not_covered(path, error) from None


def not_covered(path: Path, error: ValidationError) -> CheckpointError:
    """Return one error over all values of a file that `Released` does not take."""
    faults = [
        f"{'.'.join(map(str, fault['loc']))}: "
        + ("is missing" if fault["type"] == "missing" else _said(fault))
        for fault in error.errors()
    ]
    return CheckpointError("\n  ".join([f"{path}: not covered:", *faults]))


def architecture(released: Released, path: Path) -> ModelConfig:
    """Return our configuration; raises `CheckpointError` where the values do not fit together."""
    try:
        config = convert(released)
        plan_layers(config)
    except ValidationError as error:
        faults = "; ".join(f"{fault['loc'][-1]}: {_said(fault)}" for fault in error.errors())
        raise CheckpointError(f"{path}: {faults}.") from None
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return config


def convert(released: Released) -> ModelConfig:
    """Return our configuration; raises what its components raise."""
    _check_widths(released)
    d_model, n_heads, eps = (
        released.hidden_size,
        released.num_attention_heads,
        released.rms_norm_eps,
    )
    d_ff, n_meta = released.intermediate_size, released.num_memory_tokens
    mlp = {"silu": "swiglu", "relu2": "relu2"}[released.mlp_hidden_act]
    return ModelConfig(
        d_model=d_model,
        n_layers=released.num_hidden_layers,
        vocab=released.vocab_size,
        tie_embeddings=released.tie_word_embeddings,
        norm_eps=eps,
        heads=heads.spec(
            "hybrid",
            n_heads=n_heads,
            n_kv_heads=released.num_key_value_heads or n_heads,
            d_head=d_model // n_heads,
            d_head_v=released.mamba_expand * d_model // n_heads,
            expand=released.mamba_expand,
        ),
        order=orders.spec("parallel"),
        fusion=fusions.spec("mean", eps=eps),
        meta_tokens=meta_tokens.spec("learned", n_meta=n_meta)
        if n_meta
        else meta_tokens.spec("none"),
        placement=placements.spec("all_full")
        if released.sliding_window is None
        else placements.spec(
            "explicit",
            window=released.sliding_window + 1,  # theirs is the distance, ours counts the query
            full=released.global_attn_idx,
        ),
        kv_sharing=kv_sharings.spec("explicit", groups=_groups(released)),
        attention=attentions.spec(
            "softmax",
            rope_theta=float(released.rope_theta) if released.rope else None,
            rope_scale=_stretch(released),
        ),
        ssm=ssms.spec(
            "mamba1",
            d_state=released.mamba_d_state,
            d_conv=released.mamba_d_conv,
            dt_rank=math.ceil(d_model / 16)
            if released.mamba_dt_rank == "auto"
            else released.mamba_dt_rank,
            inner_norms=released.mamba_inner_layernorms,
            eps=eps,
        ),
        mlp=mlps.spec(mlp, d_ff=d_ff) if d_ff else mlps.spec("none"),
    )


def _check_widths(released: Released) -> None:
    d_model, n_heads = released.hidden_size, released.num_attention_heads
    if d_model % n_heads:
        raise ConfigError(
            f"hidden_size = {d_model} is no multiple of num_attention_heads = {n_heads}."
        )
    for key, width in {"attn_hidden_size": d_model, "kq_head_dim": d_model // n_heads}.items():
        given = getattr(released, key)
        if given > 0 and given != width:
            raise ConfigError(
                f"{key} = {given}: the released code works with {width} (or -1) here only."
            )
    if released.sliding_window is not None and released.global_attn_idx is None:
        raise ConfigError(
            f"sliding_window = {released.sliding_window}, but global_attn_idx is not given; list "
            "the layers of full attention, [] for none."
        )


def _groups(released: Released) -> list[list[int]]:
    """Return who shares keys and values, first the producer; every_i counts where no group is."""
    every, n_layers = released.kv_reuse_every_i_layer, released.num_hidden_layers
    if released.kv_reuse_group is not None:
        return released.kv_reuse_group
    if every <= 1:
        return []
    return [list(range(first, min(first + every, n_layers))) for first in range(0, n_layers, every)]


def _stretch(released: Released) -> float:
    """Return the NTK factor 2 * max / original - 1; 1 without NTK."""
    if not released.rope or released.rope_type != "ntk":
        return 1.0
    if released.orig_max_position_embeddings is None:
        raise ConfigError("rope_type is ntk, but orig_max_position_embeddings is not given.")
    return 2 * released.max_position_embeddings / released.orig_max_position_embeddings - 1


def _said(fault: Any) -> str:
    return f"{fault['input']!r} given; {fault['msg'][0].lower()}{fault['msg'][1:]}"
