"""Axis: heads side by side in every layer, or layers of one kind after another (table 1, row A-B).

An entry returns the kind of every layer.
"""

from typing import Annotated, Literal

from pydantic import Field

from hymba_lab.errors import ConfigError
from hymba_lab.registry import Registry

Kind = Literal["parallel", "attention", "ssm"]

orders: Registry[list[Kind]] = Registry("model.order")

_LETTERS: dict[str, Kind] = {"p": "parallel", "a": "attention", "s": "ssm"}


@orders.register("parallel")
def parallel(n_layers: int) -> list[Kind]:
    """Both branches in every layer (Hymba)."""
    return ["parallel"] * n_layers


@orders.register("sequential")
def sequential(n_layers: int) -> list[Kind]:
    """SSM and attention layers in turn, SSM first (Samba: Mamba-FFN-attention-FFN)."""
    return interleaved(n_layers, pattern="sa")


@orders.register("pattern")
def pattern(n_layers: int, *, pattern: Annotated[str, Field(min_length=1)]) -> list[Kind]:
    """Every layer by its letter, spaces and case of no meaning: `SSSA SSSA` for eight layers.

    A pattern shorter than the model is repeated, and must then fit a whole number of times.
    """
    letters = "".join(pattern.split()).lower()
    if not letters or n_layers % len(letters):
        raise ConfigError(
            f"pattern {pattern!r} has {len(letters)} letters, n_layers is {n_layers}: give one "
            "letter per layer, or a group that repeats a whole number of times."
        )
    return interleaved(n_layers, pattern=letters)


@orders.register("interleaved")
def interleaved(n_layers: int, *, pattern: Annotated[str, Field(min_length=1)]) -> list[Kind]:
    """The pattern repeated: s = SSM, a = attention, p = parallel layer (Jamba: sssasssa)."""
    unknown = sorted(set(pattern) - set(_LETTERS))
    if unknown:
        raise ConfigError(
            f"pattern {pattern!r} holds {', '.join(map(repr, unknown))}; "
            "write s (SSM), a (attention) or p (parallel) for each layer."
        )
    return [_LETTERS[pattern[layer % len(pattern)]] for layer in range(n_layers)]
