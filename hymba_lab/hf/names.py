"""Tensors under their released names, both ways, in the terms of transformers.

`from_pretrained` and `save_pretrained` use these conversions, so that precisions, shards and device
maps come with them. The names themselves stand in `hf_checkpoint`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import (
    Concatenate,
    ConversionOps,
    WeightConverter,
    WeightRenaming,
    WeightTransform,
)

from hymba_lab.checkpoints.hf_checkpoint import (
    IN_PROJ,
    IN_PROJ_PARTS,
    LAYER_NAMES,
    MODEL_NAMES,
    tensor_names,
)
from hymba_lab.model import LanguageModel

_CONV = "mamba.conv1d.weight"


class SplitRows(ConversionOps):
    """One matrix -> those whose rows it holds; a consumer of keys and values has fewer."""

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        *,
        full_layer_name: str = "",
        model: Any = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        """Return the parts by their patterns."""
        whole = _only(input_dict)
        ours = dict(model.named_parameters())
        rows = {
            part: ours[name].shape[0]
            for part in target_patterns
            if (name := full_layer_name.replace(target_patterns[0], part)) in ours
        }
        pieces = torch.split(whole, list(rows.values()))
        return {part: piece.contiguous() for part, piece in zip(rows, pieces, strict=True)}

    @property
    def reverse_op(self) -> ConversionOps:
        """The rows one under another."""
        return Concatenate(0)


class OneChannel(ConversionOps):
    """(D, 1, W), a convolution of one input channel a group, <-> (D, W)."""

    def __init__(self, *, saving: bool = False) -> None:
        self.saving = saving

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        **_: Any,
    ) -> dict[str, Tensor]:
        """Return the kernel with the axis added or taken away."""
        kernel = _only(input_dict)
        return {target_patterns[0]: kernel.unsqueeze(1) if self.saving else kernel.squeeze(1)}

    @property
    def reverse_op(self) -> ConversionOps:
        """The other direction."""
        return OneChannel(saving=not self.saving)


def conversions() -> list[WeightTransform]:
    """Return the way from released names to ours; transformers goes it backwards when saving.

    Renamings run in order, so the number of a layer is kept until its last one; converters match
    the end of a name only.
    """
    steps: list[WeightTransform] = [
        WeightRenaming(theirs, "model.net." + ours)
        for theirs, ours in MODEL_NAMES.items()
        if theirs != "lm_head.weight"  # outside of the backbone here, too
    ]
    for theirs, ours in LAYER_NAMES.items():
        if theirs != _CONV:
            steps.append(
                WeightRenaming(rf"model.layers.(\d+).{theirs}", rf"model.layers.\1.{ours}")
            )
    steps.append(WeightRenaming("model.layers", "model.net.blocks"))
    steps.append(WeightConverter(_CONV, LAYER_NAMES[_CONV], [OneChannel()]))
    steps.append(WeightConverter(IN_PROJ, list(IN_PROJ_PARTS), [SplitRows()]))
    return steps


def accept_released(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Rename released tensors of a state that is about to be loaded, in place.

    `Trainer` resumes by `load_state_dict(strict=False)`, which knows no conversion: it would leave
    every weight as it is and go on. One shard holds some of the tensors.
    """
    if not any(name.startswith(prefix + "model.layers.") for name in state) and (
        prefix + "model.embed_tokens.weight" not in state
    ):
        return
    net: LanguageModel = module.model.net  # type: ignore[union-attr, assignment]
    ours = dict(net.named_parameters())
    for theirs, parts in tensor_names(net).items():
        if (whole := state.pop(prefix + theirs, None)) is not None:
            rows = torch.split(whole, [ours[part].shape[0] for part in parts])
            for part, piece in zip(parts, rows, strict=True):
                state[f"{prefix}model.net.{part}"] = piece.reshape(ours[part].shape)
    embedding = state.get(prefix + "model.net.embedding.weight")
    if embedding is not None and module.config.tie_word_embeddings:  # type: ignore[union-attr]
        state.setdefault(prefix + "lm_head.weight", embedding)


def _only(given: dict[str, Any]) -> Tensor:
    (value,) = given.values()
    tensor: Tensor = value[0] if isinstance(value, list) else value
    return tensor
