"""Axis: which layers attend to everything and which through a sliding window (table 10, rows 7-8).

An entry returns one window per layer. `window` counts the keys that a query sees, its own
included; None is full attention. (The released mask `q - k <= 1024` is `window: 1025`.)
"""

from typing import Annotated

from pydantic import Field

from hymba_lab.errors import ConfigError
from hymba_lab.registry import Registry

Window = Annotated[int, Field(ge=1, le=2**24)]

placements: Registry[list[int | None]] = Registry("model.placement")


@placements.register("all_full")
def all_full(n_layers: int) -> list[int | None]:
    """Full attention in every layer."""
    return [None] * n_layers


@placements.register("all_window")
def all_window(n_layers: int, *, window: Window) -> list[int | None]:
    """A sliding window in every layer."""
    return [window] * n_layers


@placements.register("first_middle_last")
def first_middle_last(n_layers: int, *, window: Window) -> list[int | None]:
    """Full attention in the layers 0, (n_layers - 1) // 2 and n_layers - 1 (the paper)."""
    return explicit(n_layers, window=window, full=sorted({0, (n_layers - 1) // 2, n_layers - 1}))


@placements.register("every")
def every(
    n_layers: int,
    *,
    window: Window,
    period: Annotated[int, Field(ge=1, le=2**24)],
    offset: Annotated[int, Field(ge=0, le=2**24)] = 0,
) -> list[int | None]:
    """Full attention in the layers offset, offset + period, offset + 2 period, ..."""
    return explicit(n_layers, window=window, full=list(range(offset, n_layers, period)))


@placements.register("explicit")
def explicit(n_layers: int, *, window: Window, full: list[int]) -> list[int | None]:
    """Full attention in just the layers listed."""
    unknown = [layer for layer in full if not 0 <= layer < n_layers]
    if unknown or len(set(full)) != len(full):
        raise ConfigError(f"full = {full} must list different layers out of 0..{n_layers - 1}.")
    return [None if layer in full else window for layer in range(n_layers)]
