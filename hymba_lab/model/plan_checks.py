"""What a plan of layers has to be, whoever wrote the function that returned it."""

from collections.abc import Sequence
from typing import Any

from hymba_lab.errors import ConfigError

_KINDS, _TOPOLOGIES = ("parallel", "attention", "ssm"), ("sa_m", "sam", "s_a_m")


def check_order(made: Any, n_layers: int) -> None:
    """Raise `ConfigError` for what is no kind for every layer."""
    if not isinstance(made, list) or len(made) != n_layers:
        raise ConfigError(f"{made!r} is not a list of {n_layers} kinds of layers", "model.order")
    if wrong := sorted(set(map(str, made)) - set(_KINDS)):
        said = f"{wrong} are no kinds of layers; parallel, attention and ssm are"
        raise ConfigError(said, "model.order")


def check_placement(made: Any, n_layers: int) -> None:
    """Raise `ConfigError` for what is no window for every layer."""
    if not isinstance(made, list) or len(made) != n_layers:
        raise ConfigError(f"{made!r} is not a list of {n_layers} windows", "model.placement")
    for window in made:
        if window is not None and not (isinstance(window, int) and window >= 1):
            raise ConfigError(
                f"{window!r} is no window: a number of tokens from 1 on, or None for full",
                "model.placement",
            )


def check_kv_sharing(made: Any, windows: Sequence[int | None]) -> None:
    """Raise `ConfigError` where a layer reads keys that are not there, or of another window."""
    if not isinstance(made, list) or len(made) != len(windows):
        raise ConfigError(f"{made!r} is not a list of {len(windows)} layers", "model.kv_sharing")
    for layer, source in enumerate(made):
        reads = f"layer {layer} reads layer {source}"
        if not isinstance(source, int) or not 0 <= source <= layer or made[source] != source:
            raise ConfigError(f"{reads}, which makes no keys before it", "model.kv_sharing")
        if windows[source] != windows[layer]:
            raise ConfigError(f"{reads}, whose window is another", "model.kv_sharing")


def check_topology(made: Any) -> None:
    """Raise `ConfigError` for what is none."""
    if made not in _TOPOLOGIES:
        said = f"{made!r} is no topology; sa_m, sam and s_a_m are"
        raise ConfigError(said, "model.topology")
