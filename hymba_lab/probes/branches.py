"""How loud each branch is, and what is lost without it (figures 3, 12 and 13)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from hymba_lab.data.source import Mixture
from hymba_lab.model import LanguageModel
from hymba_lab.model.block import Block
from hymba_lab.probes.trace import BRANCHES, LayerSeen, branches, hooked
from hymba_lab.training.validation import evaluate

Line = dict[str, Any]


def output_sizes(model: LanguageModel, layers: list[LayerSeen]) -> Iterator[Line]:
    """Yield layer, branch, what, value over the text tokens:

    `output`: root mean square of the branch's output, before the fusion's norm;
    `contribution`: that of the mixer's output if the other branch were 0, fusion(a, 0): what the
    branch adds to the residual stream.
    """
    n_meta = model.meta.n_meta if model.meta else 0
    for index, layer in enumerate(layers):
        for branch, output in layer.outputs.items():
            alone = _alone(cast(Block, model.blocks[index]).mixer, layer.outputs, branch)
            for what, value in (("output", output), ("contribution", alone)):
                size = value[:, n_meta:].double().square().mean().sqrt().item()
                yield {"layer": index, "branch": branch, "what": what, "value": size}


def stream_sizes(layers: list[LayerSeen]) -> Iterator[Line]:
    """Yield layer, branch `residual`, what, value of the residual stream behind each layer:

    `largest activation` of any token and channel, meta tokens included, and `largest over median`,
    that over the median of all (massive activations, arXiv:2402.17762).
    """
    for index, layer in enumerate(layers):
        named: Line = {"layer": index, "branch": "residual"}
        yield named | {"what": "largest activation", "value": layer.largest}
        yield named | {"what": "largest over median", "value": layer.largest / layer.median}


def scales(model: LanguageModel) -> Iterator[Line]:
    """Yield the mean size of the fusion's norm weights, the paper's beta; none without norms."""
    for index, block in enumerate(model.blocks):
        fusion = getattr(cast(Block, block).mixer, "fusion", None)
        for branch, name in zip(BRANCHES, ("norm_attn", "norm_ssm"), strict=True):
            weight = getattr(getattr(fusion, name, None), "weight", None)
            if isinstance(weight, Tensor):
                value = weight.double().abs().mean().item()
                yield {"layer": index, "branch": branch, "what": "scale", "value": value}


def removals(model: LanguageModel, mixture: Mixture) -> Iterator[Line]:
    """Yield layer, branch, metric, whole, value, change: every metric without one branch."""
    device = model.embedding.weight.device
    whole = evaluate(model, mixture, device)
    for index, branch, part in branches(model):
        with silenced(part):
            found = evaluate(model, mixture, device)
        for metric, value in found.items():
            yield {
                "layer": index, "branch": branch, "metric": metric, "whole": whole[metric],
                "value": value, "change": value - whole[metric],
            }  # fmt: skip


@contextmanager
def silenced(branch: nn.Module) -> Iterator[None]:
    """Let a branch return 0; its keys and values stay, for the layers that read them.

    Behind the norm of a fusion 0 stays 0, so this is the paper's "scale set to 0" for `mean`, and
    means the same for a fusion without a scale.
    """

    def silence(_module: nn.Module, _given: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return torch.zeros_like(output[0]), *output[1:]
        return torch.zeros_like(output)

    with hooked(branch.register_forward_hook(silence)):
        yield


@torch.no_grad()
def _alone(mixer: nn.Module, outputs: dict[str, Tensor], branch: str) -> Tensor:
    if not isinstance(fusion := getattr(mixer, "fusion", None), nn.Module):
        ways = {"attention": "out_attn", "ssm": "out_ssm"} if hasattr(mixer, "out_ssm") else {}
        alone: Tensor = mixer.get_submodule(ways.get(branch, "out"))(outputs[branch])
        return alone
    given = [
        value if name == branch else torch.zeros_like(value) for name, value in _order(outputs)
    ]
    alone = fusion(*given)
    return alone


def _order(outputs: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    return [(name, outputs[name]) for name in BRANCHES]
