"""Whether a component remembers what it should: its pass in steps against its whole pass.

The components of the package are tested once and for all. A component from elsewhere is tried
before its model generates: one that ignores its `past` while its outputs depend on earlier tokens
would generate wrong text without any error.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hymba_lab.components.past import WHOLE, LayerPast, Past, kept_shapes
from hymba_lab.errors import UserError
from hymba_lab.model.cache import Cache, Kept, parts
from hymba_lab.model.plan import LayerPlan

TOLERANCE = 1e-3  # of the size of the outputs; a memory that is missing changes them by its share
CUTS = (4, 1, 1, 3)  # tokens of text in each step


def foreign(component: object) -> bool:
    """Whether a component is not one of the package's own."""
    return not type(component).__module__.startswith("hymba_lab.")


def refuse_forgetful(
    plan: Sequence[LayerPlan], blocks: Iterable[nn.Module], d_model: int, n_meta: int
) -> None:
    """Raise `UserError` that names a component from elsewhere which cannot generate.

    One of each class is tried on random inputs, with the weights that it has, in float32.
    """
    tried: set[type] = set()
    for layer, block in zip(plan, blocks, strict=True):
        for name, component in parts(block):
            consumer = name == "attention" and not layer.owns_kv
            if type(component) in tried or consumer or not foreign(component):
                continue
            tried.add(type(component))
            if any(tensor.is_meta for tensor in component.state_dict().values()):
                continue
            fault = memory_fault(name, component, d_model, n_meta)
            if fault:
                raise UserError(f"{type(component).__name__} cannot generate: {fault}")


@torch.no_grad()
def memory_fault(name: str, component: nn.Module, d_model: int, n_meta: int) -> str | None:
    """Return what is wrong with the memory of a layer's part `name`; None when nothing is."""
    if kept_shapes(component, 1) is None:
        return (
            "it has no cache_shapes(n_tokens), which says what it keeps from token to token; "
            "return the shapes by name, {} for nothing."
        )
    twin = copy.deepcopy(component).float().cpu().eval()
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, n_meta + sum(CUTS), d_model, generator=random)
    try:
        steps, kept = in_steps(name, twin, x, n_meta, CUTS)
    except UserError as error:
        return str(error)
    whole = outputs(name, twin, x, WHOLE)
    away = float((steps - whole).abs().max() / whole.abs().max().clamp(min=1e-12))
    unused = [key for key, buffer in kept.buffers.items() if not buffer.any()]
    if not away <= TOLERANCE:
        said = (
            f"it names {', '.join(map(repr, unused))} in cache_shapes and never asks its past for "
            "it"
            if unused
            else "what reaches across tokens has to be asked of its past, and named in cache_shapes"
        )
        return (
            f"token by token its outputs are not those of the whole sequence (up to {away:.0%} of "
            f"their size away): {said} (components/past.py shows how)."
        )
    if unused:
        return (
            f"cache_shapes names {', '.join(map(repr, unused))}, which stays empty while it "
            "generates; leave out what is not kept, or ask its past for it."
        )
    return None


@torch.no_grad()
def in_steps(
    name: str,
    component: nn.Module,
    x: Tensor,
    n_meta: int,
    cuts: Sequence[int],
    n_real: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, Kept]:
    """Return the outputs for x (B, n_meta + T, D) given in steps, and the past they were kept in.

    The first step brings the meta tokens along. `n_real` says for each step how many of its tokens
    of text are real in each row; None = all.
    """
    mixer = nn.Module()
    mixer.add_module(name, component)
    cache = Cache([mixer], n_meta, x, len(x), sum(cuts))
    made, start = [], 0
    for number, n in enumerate(cuts):
        end = start + n + (n_meta if start == 0 else 0)
        layer: LayerPast = cache.begin(n, n_real[number] if n_real else None)[0]
        made.append(outputs(name, component, x[:, start:end], getattr(layer, name)))
        start = end
    kept: Any = getattr(cache.layers[0], name)
    return torch.cat(made, 1), kept


def outputs(name: str, component: nn.Module, x: Tensor, past: Past) -> Tensor:
    """Return what a part of a layer makes of x (B, T, D)."""
    y: Any = component(x, None, past) if name == "attention" else component(x, past)
    made: Tensor = y[0] if name == "attention" else y
    return made
