"""Checkpoints in the released format: `config.json` and tensors under the released names.

The aliases stand here and, for the configuration, in `hf_config` and `hf_describe`; nowhere else.
"""

import json
from collections.abc import Iterator
from functools import partial, reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hymba_lab.atomic import write_atomically
from hymba_lab.checkpoints.hf_config import Released, architecture, read_released
from hymba_lab.checkpoints.hf_describe import describe
from hymba_lab.checkpoints.tensor_files import SAFETENSORS, Shape, TensorFolder, write_safetensors
from hymba_lab.errors import CheckpointError, StoreError
from hymba_lab.model.language_model import LanguageModel, build_model
from hymba_lab.model.plan import LayerPlan

MODEL_NAMES = {
    "model.embed_tokens.weight": "embedding.weight",
    "model.memory_tokens": "meta.tokens",
    "model.final_layernorm.weight": "norm.weight",
    "lm_head.weight": "head.weight",
}
LAYER_NAMES = {
    "input_layernorm.weight": "norm1.weight",
    "mamba.conv1d.weight": "mixer.ssm.conv_weight",
    "mamba.conv1d.bias": "mixer.ssm.conv_bias",
    "mamba.x_proj.0.weight": "mixer.ssm.dt_b_c.weight",
    "mamba.dt_layernorm.weight": "mixer.ssm.norms.0.weight",
    "mamba.B_layernorm.weight": "mixer.ssm.norms.1.weight",
    "mamba.C_layernorm.weight": "mixer.ssm.norms.2.weight",
    "mamba.dt_proj.0.weight": "mixer.ssm.dt.weight",
    "mamba.dt_proj.0.bias": "mixer.ssm.dt.bias",
    "mamba.A_log.0": "mixer.ssm.A_log",
    "mamba.D.0": "mixer.ssm.D",
    "mamba.pre_avg_layernorm1.weight": "mixer.fusion.norm_attn.weight",
    "mamba.pre_avg_layernorm2.weight": "mixer.fusion.norm_ssm.weight",
    "mamba.out_proj.weight": "mixer.fusion.out.weight",
    "pre_moe_layernorm.weight": "norm2.weight",
    "moe.experts.0.gate_proj.weight": "mlp.gate.weight",
    "moe.experts.0.up_proj.weight": "mlp.up.weight",
    "moe.experts.0.down_proj.weight": "mlp.down.weight",
}
IN_PROJ = "mamba.in_proj.weight"  # the rows of several matrices, a consumer's without K and V
IN_PROJ_PARTS = [f"mixer.{part}.weight" for part in ("attention.q", "attention.k", "attention.v")]
IN_PROJ_PARTS += [f"mixer.{part}.weight" for part in ("ssm.x", "ssm.z")]

_PRECISION = ("torch_dtype", "dtype")  # an older and a newer name: files hold either, or both
_LEFTOVER = "rotary_emb.inv_freq"  # a buffer that older versions wrote; it follows from the config


def load_pretrained(folder: str | Path, dtype: torch.dtype | str | None = None) -> LanguageModel:
    """Return the model of a folder in the released format, in evaluation mode.

    Reads `config.json` and `model.safetensors` or `pytorch_model.bin`, whole or in shards. The
    weights stay mapped from their files until they are used, so that no second copy of them is ever
    in memory; `dtype` (such as torch.float32 or "bfloat16") converts them one by one instead.

    Raises `CheckpointError`: values that the architecture does not cover, missing, extra or
    misshapen tensors (all of them in one message), damaged files.
    """
    folder = Path(folder)
    released, content = read_released(folder / "config.json")
    precision = precision_of(dtype)
    model = meta_model(released, folder / "config.json")
    tensors = TensorFolder(folder)
    names = tensor_names(model)
    check_tensors(tensors, model)
    ours = dict(model.named_parameters())
    state: dict[str, Tensor] = {}
    for name, parts in names.items():
        tensor = tensors.read(name, precision)
        rows = torch.split(tensor, [ours[part].shape[0] for part in parts])
        state |= {
            part: piece.view(ours[part].shape) for part, piece in zip(parts, rows, strict=True)
        }
    model.load_state_dict(state, assign=True)
    model.released = content
    return model.eval()


def save_pretrained(model: LanguageModel, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors` so that the released code loads them.

    A model that was loaded keeps its configuration file value by value, but for the precision of
    its weights; one of ours gets the values that describe it. A save that is cut off leaves the old
    folder, or one without `config.json`, which nothing loads.

    Raises `CheckpointError` for an architecture that the released code lacks, and where the folder
    cannot be written.
    """
    folder = Path(folder)
    config, values, ghosts = folder / "config.json", _values(model), released_tensors(model)
    outdated = partial(config.unlink, missing_ok=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / SAFETENSORS, ghosts, _joined(model, ghosts), outdated)
        write_atomically(config, json.dumps(values, indent=2) + "\n")
    except StoreError as error:
        raise CheckpointError(str(error)) from error
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written: {error.strerror}.") from error


def _values(model: LanguageModel) -> dict[str, Any]:
    """Return the content of `config.json`; the precision is the widest of the weights.

    transformers loads in the precision that stands there, so a narrower one would round.
    """
    dtype = reduce(torch.promote_types, (weight.dtype for weight in model.parameters()))
    if not model.released:
        vocab = model.embedding.weight.shape[0]
        return describe(model.config, vocab, model.max_tokens, dtype)
    named = [key for key in _PRECISION if key in model.released]
    return {**model.released, **dict.fromkeys(named, str(dtype).removeprefix("torch."))}


def meta_model(released: Released, path: Path) -> LanguageModel:
    """Return the model that the values describe, without memory for its tensors."""
    config = architecture(released, path)
    with torch.device("meta"):
        model = build_model(config, released.vocab_size)
    model.max_tokens = released.max_position_embeddings if released.rope else None
    return model


def tensor_names(model: LanguageModel) -> dict[str, list[str]]:
    """Return every released name and the parameters of ours whose rows it holds."""
    ours = {name for name, _ in model.named_parameters()}
    names = {theirs: [name] for theirs, name in MODEL_NAMES.items() if name in ours}
    for layer in model.plan:
        names |= _layer_names(layer, ours)
    return names


def released_tensors(model: LanguageModel) -> dict[str, Tensor]:
    """Return the released tensors' names, shapes and precisions, as meta tensors."""
    ours = dict(model.named_parameters())
    return {
        name: torch.empty(
            _released_shape(name, [tuple(ours[part].shape) for part in parts]),
            dtype=ours[parts[0]].dtype,
            device="meta",
        )
        for name, parts in tensor_names(model).items()
    }


def _layer_names(layer: LayerPlan, ours: set[str]) -> dict[str, list[str]]:
    here, there = f"blocks.{layer.index}.", f"model.layers.{layer.index}."
    names = {there + IN_PROJ: [here + part for part in IN_PROJ_PARTS if here + part in ours]}
    names |= {there + theirs: [here + name] for theirs, name in LAYER_NAMES.items()}
    return {theirs: parts for theirs, parts in names.items() if ours.issuperset(parts)}


def _released_shape(name: str, shapes: list[Shape]) -> Shape:
    if name.endswith("conv1d.weight"):  # a convolution of one input channel a group
        return (shapes[0][0], 1, *shapes[0][1:])
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _joined(model: LanguageModel, ghosts: dict[str, Tensor]) -> Iterator[Tensor]:
    ours = dict(model.named_parameters())
    for name, parts in tensor_names(model).items():
        whole = ours[parts[0]] if len(parts) == 1 else torch.cat([ours[part] for part in parts])
        yield whole.view(ghosts[name].shape)


def check_tensors(tensors: TensorFolder, model: LanguageModel) -> None:
    """Raise one error over all tensors that are missing, extra, misshapen or no numbers of ours."""
    given, expected = tensors.shapes, released_tensors(model)
    # files of a tied model may hold the embedding a second time, under the name of the head
    known = expected.keys() | ({"lm_head.weight"} if model.head is None else set())
    extra = [name for name in given.keys() - known if not name.endswith(_LEFTOVER)]
    faults = [f"missing: {name} {list(expected[name].shape)}" for name in expected.keys() - given]
    faults += [f"not of this model: {name} {list(given[name])}" for name in extra]
    faults += [
        f"misshapen: {name} is {list(given[name])}, the configuration asks for {list(want.shape)}"
        for name, want in expected.items()
        if name in given and given[name] != tuple(want.shape)
    ]
    faults += [
        f"not in floating point: {name} is {kind}; quantized weights are not read"
        for name, kind in tensors.others.items()
        if name in expected
    ]
    if faults:
        raise CheckpointError(
            f"{tensors.folder}: the tensors are not those of config.json:\n  "
            + "\n  ".join(sorted(faults))
        )


def precision_of(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return a precision by its name; None stays None. Raises `CheckpointError` for another."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is None or (isinstance(found, torch.dtype) and found.is_floating_point):
        return found
    raise CheckpointError(f"dtype = {dtype}: give float32, bfloat16, float16, float64 or None.")
