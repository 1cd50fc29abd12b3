"""A model without memory for its tensors, and its parameters part by part."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn

from hymba_lab.config import ModelConfig
from hymba_lab.errors import ConfigError
from hymba_lab.model import LanguageModel, build_model
from hymba_lab.model.outputs import refuse_wrong_outputs
from hymba_lab.model.plan import LayerPlan

PARTS = (
    "embedding", "meta_tokens", "attention", "ssm", "fusion", "mlp", "norms", "head",
)  # fmt: skip
"""Where a parameter or a FLOP can be.

`fusion` is all of a mixer outside its branches, the output projection and a short convolution in
front included (one in front of the MLP is the MLP's); `norms` are the block's and the final one, a
branch's own norms belong to the branch. A tied head has no parameters.
"""

_OF_MIXER = {"attention": "attention", "ssm": "ssm"}
_OF_BLOCK = {"norm1": "norms", "norm2": "norms", "norm_attn": "norms", "mlp": "mlp"}
_OF_BLOCK |= {"conv_mixer": "fusion", "conv_mlp": "mlp"}
_OF_MODEL = {"embedding": "embedding", "meta": "meta_tokens", "norm": "norms"}


def meta_model(
    config: ModelConfig, vocab: int, plan: Sequence[LayerPlan] | None = None
) -> LanguageModel:
    """Build the model without memory for its tensors; with the layers of `plan`, where given.

    Raises `ConfigError` for a component of a plugin that fails or returns another shape.
    """
    try:
        with torch.device("meta"):
            model = build_model(config, vocab, plan)
    except (TypeError, OverflowError, RuntimeError) as error:
        if "verflow" not in str(error):
            raise
        said = "a tensor of this shape has more values than any machine holds; shrink it."
        raise ConfigError(said, "model") from None
    refuse_wrong_outputs(model)
    return model


def count(module: nn.Module) -> int:
    """Return the number of parameters, shared ones counted once."""
    return sum(p.numel() for p in module.parameters())


def part_of(name: str) -> str:
    """Return the part that a module or parameter belongs to, by its name inside the model."""
    steps = name.split(".")
    if steps[0] != "blocks":
        return _OF_MODEL.get(steps[0], "head")
    if steps[2:3] == ["mixer"]:
        return _OF_MIXER.get(steps[3] if len(steps) > 3 else "", "fusion")
    return _OF_BLOCK[steps[2]]


def params_by_part(model: LanguageModel) -> dict[str, int]:
    """Return the parameters of every part; their sum is `count(model)`."""
    found: Counter[str] = Counter()
    for name, parameter in model.named_parameters():  # a shared tensor has one name
        found[part_of(name)] += parameter.numel()
    return {part: found[part] for part in PARTS}
