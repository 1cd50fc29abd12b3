"""Axis: which layers read the keys and values of an earlier layer (table 10, rows 9-10).

An entry maps the windows of the attention layers to the layer whose keys and values each one
reads: its own index for a producer, an earlier index for a consumer. Only layers of equal window
share, because a consumer reads what its producer keeps.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated

from pydantic import Field

from hymba_lab.errors import ConfigError
from hymba_lab.registry import Registry

kv_sharings: Registry[list[int]] = Registry("model.kv_sharing")


@kv_sharings.register("none")
def none(windows: Sequence[int | None]) -> list[int]:
    """Every layer has keys and values of its own."""
    return list(range(len(windows)))


@kv_sharings.register("adjacent")
def adjacent(
    windows: Sequence[int | None],
    *,
    size: Annotated[int, Field(ge=1, le=2**24)] = 2,
    full: bool = False,
) -> list[int]:
    """Neighbours of equal window share in groups of `size`; full layers only when `full` is true.

    A group never reaches across a layer of another window, so runs leave a smaller last group.
    """
    kv_from: list[int] = []
    for window, run in groupby(windows):
        shares = window is not None or full
        for place, _ in enumerate(run):
            kv_from.append(len(kv_from) - (place % size if shares else 0))
    return kv_from


@kv_sharings.register("explicit")
def explicit(windows: Sequence[int | None], *, groups: list[list[int]]) -> list[int]:
    """Each group reads the keys and values of its first layer."""
    kv_from = none(windows)
    members = [layer for group in groups for layer in group]
    unknown = sorted({layer for layer in members if not 0 <= layer < len(windows)})
    if unknown or len(set(members)) != len(members):
        raise ConfigError(
            f"groups = {groups} must hold different attention layers out of 0..{len(windows) - 1}."
        )
    for group in groups:
        if not group or group != sorted(group) or len({windows[layer] for layer in group}) != 1:
            raise ConfigError(
                f"group {group} must list at least one layer, in ascending order and of equal "
                f"window; their windows are {[windows[layer] for layer in group]}."
            )
        for layer in group:
            kv_from[layer] = group[0]
    return kv_from
