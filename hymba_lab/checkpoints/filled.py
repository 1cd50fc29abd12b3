"""A model made without memory gets its weights, and nothing of it stays on the meta device."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from hymba_lab.model.language_model import LanguageModel


def filled(build: Callable[[], LanguageModel], weights: Mapping[str, Tensor]) -> LanguageModel:
    """Return what `build` makes, with these weights in place of its own.

    Buffers that no file holds (`persistent=False`) are as `build` makes them. Raises
    `RuntimeError` for the weights of another model.
    """
    with torch.device("meta"):
        model = build()
    model.load_state_dict(weights, assign=True)
    left = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    made = dict(build().named_buffers()) if left else {}
    for name in left:
        owner, _, own = name.rpartition(".")
        model.get_submodule(owner).register_buffer(own, made[name], persistent=False)
    return model
