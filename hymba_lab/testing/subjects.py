"""What is tested: a component with options and widths, and how modules of each axis are fed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from hymba_lab.components.heads import AttentionHeads
from hymba_lab.components.meta_tokens import MetaTokens
from hymba_lab.components.short_conv import ConvPlan, ShortConv
from hymba_lab.errors import ConfigError
from hymba_lab.registry import Registry, Spec


class Broken(Exception):
    """A component breaks a law; the text says how."""


@dataclass(frozen=True)
class Widths:
    """The facts that a component is built from; both branches are `d_inner` wide.

    `windows` are those of the layers with attention, None = full.
    """

    d_model: int = 16
    d_inner: int = 32
    heads: AttentionHeads = field(default_factory=lambda: AttentionHeads(4, 2, 4, 8))
    window: int = 5
    n_meta: int = 2
    n_tokens: int = 11
    n_layers: int = 6
    windows: tuple[int | None, ...] = (None, 4, 4, 4, None, 4)


class Wired(NamedTuple):
    """A module and what it does to x (B, T, d_in)."""

    module: nn.Module
    apply: Callable[[Tensor], Tensor]
    d_in: int
    d_out: int


@dataclass(frozen=True)
class Subject:
    """One entry of one axis, with the options that it is tried with."""

    registry: Registry[Any]
    spec: Spec
    widths: Widths = Widths()

    @property
    def path(self) -> str:
        """The axis, e.g. `model.ssm`."""
        return self.registry.path

    def build(self, *facts: Any) -> Any:
        """Return the component."""
        return self.registry.build(self.spec, *facts)

    def wired(self, seed: int = 0) -> Wired:
        """Return the module of its axis, made with a seed; see `WIRES`."""
        torch.manual_seed(seed)
        return WIRES[self.path](self)

    def inputs(self, d_in: int, n_rows: int = 2) -> Tensor:
        """Return x (n_rows, n_tokens, d_in), the same in every call."""
        shape = (n_rows, self.widths.n_tokens, d_in)
        return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _fusion(subject: Subject) -> Wired:
    d_inner, d_model = subject.widths.d_inner, subject.widths.d_model
    module = subject.build(d_inner, d_inner, d_model)
    return Wired(module, lambda x: module(*x.chunk(2, dim=-1)), 2 * d_inner, d_model)


def _meta_tokens(subject: Subject) -> Wired:
    d_model = subject.widths.d_model
    module: MetaTokens = subject.build(d_model)

    def summed(x: Tensor) -> Tensor:  # the sum over time stands for the layers
        return module.drop(module.add(x).cumsum(1))

    return Wired(module, summed, d_model, d_model)


def _attention(subject: Subject) -> Wired:
    facts = subject.widths
    module = subject.build(facts.d_model, facts.heads, facts.window, facts.n_meta, True)
    return Wired(module, lambda x: module(x, None)[0], facts.d_model, facts.heads.d_out)


def _ssm(subject: Subject) -> Wired:
    module = subject.build(subject.widths.d_model, subject.widths.d_inner)
    return Wired(module, module, subject.widths.d_model, subject.widths.d_inner)


def _short_conv(subject: Subject) -> Wired:
    plan: ConvPlan = subject.build()
    module = ShortConv(subject.widths.d_model, plan.d_conv)
    return Wired(module, module, subject.widths.d_model, subject.widths.d_model)


def _mlp(subject: Subject) -> Wired:
    module = subject.build(subject.widths.d_model)
    return Wired(module, module, subject.widths.d_model, subject.widths.d_model)


WIRES: dict[str, Callable[[Subject], Wired]] = {
    "model.fusion": _fusion,
    "model.meta_tokens": _meta_tokens,
    "model.attention": _attention,
    "model.ssm": _ssm,
    "model.mlp": _mlp,
    "model.short_conv": _short_conv,
}
"""Axis of modules -> how one is built from the facts and what it maps."""

PARTS = {"model.attention": "attention", "model.ssm": "ssm", "model.short_conv": "conv_mixer"}
"""Axis -> the part of a layer, by its name in `LayerPast`, that keeps what the axis makes."""


def example(registry: Registry[Any], name: str) -> Spec:
    """Return a spec of an entry: its defaults, and for an option without one a value that fits.

    Raises `ConfigError` where no simple value fits: an experiment that uses the entry has one.
    """
    options = {}
    for key, info in registry.spec_type(name).model_fields.items():
        if key == "name" or not info.is_required():
            continue
        kind: Any = info.annotation
        adapter: TypeAdapter[Any] = TypeAdapter(
            Annotated[(kind, *info.metadata)] if info.metadata else kind
        )
        options[key] = _fitting(adapter, f"{registry.path}: {name}: option {key}")
    try:
        return registry.spec(name, **options)
    except ValidationError as error:
        raise ConfigError(f"{registry.path}: {name}: {error}") from None


def _fitting(adapter: TypeAdapter[Any], where: str) -> Any:
    candidates: tuple[Any, ...] = (2, 4, 1, 0.5, 1e-3, "x", True, [1], [0], [0.5], ["x"], {})
    for value in candidates:
        try:
            return adapter.validate_python(value, strict=True)
        except ValidationError:
            continue
    raise ConfigError(
        f"{where} has no default, and no simple value fits; check an experiment that gives it one: "
        "hymba-lab check my_experiment.yaml."
    )
