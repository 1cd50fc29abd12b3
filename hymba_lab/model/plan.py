"""The architecture in integers: one `LayerPlan` per layer, before any tensor is made."""

from dataclasses import dataclass

from hymba_lab.components.heads import HeadPlan, heads
from hymba_lab.components.kv_sharing import kv_sharings
from hymba_lab.components.order import Kind, orders
from hymba_lab.components.placement import placements
from hymba_lab.config import ModelConfig
from hymba_lab.errors import ConfigError
from hymba_lab.model.plan_checks import check_kv_sharing, check_order, check_placement


@dataclass(frozen=True)
class LayerPlan:
    """What one layer holds; a branch it lacks is None in `heads`."""

    index: int
    heads: HeadPlan
    window: int | None  # keys a query sees, its own included; None = full (or no attention)
    kv_from: int | None  # layer whose keys and values are read; None = no attention

    @property
    def owns_kv(self) -> bool:
        """Whether the layer makes keys and values of its own."""
        return self.kv_from == self.index

    @property
    def kind(self) -> str:
        """`parallel`, `attention` or `ssm`."""
        if self.heads.attention is None:
            return "ssm"
        return "attention" if self.heads.d_inner is None else "parallel"


def plan_layers(config: ModelConfig) -> list[LayerPlan]:
    """Return the plan of every layer.

    Windows are placed over all layers; keys and values are shared among the attention layers only.
    """
    kinds = orders.build(config.order, config.n_layers)
    check_order(kinds, config.n_layers)
    plans = [
        _heads_of(kind, heads.build(config.at(layer).heads, config.d_model))
        for layer, kind in enumerate(kinds)
    ]
    windows = placements.build(config.placement, config.n_layers)
    check_placement(windows, config.n_layers)
    attending = [layer for layer, plan in enumerate(plans) if plan.attention]
    seen = [windows[layer] for layer in attending]
    shared = kv_sharings.build(config.kv_sharing, seen)
    check_kv_sharing(shared, seen)
    kv_from = {layer: attending[source] for layer, source in zip(attending, shared, strict=True)}
    _require_equal_heads(plans, kv_from)
    _require_equal_keys(config, kv_from)
    return [
        LayerPlan(layer, plan, windows[layer] if plan.attention else None, kv_from.get(layer))
        for layer, plan in enumerate(plans)
    ]


def _require_equal_heads(plans: list[HeadPlan], kv_from: dict[int, int]) -> None:
    """Refuse a consumer whose keys and values are of another shape than its producer's."""
    for layer, source in kv_from.items():
        own, read = plans[layer].attention, plans[source].attention
        assert own is not None and read is not None
        shapes = [(heads.n_kv_heads, heads.d_head, heads.d_head_v) for heads in (own, read)]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"layer {layer} reads keys and values of layer {source}, but has (n_kv_heads, "
                f"d_head, d_head_v) = {shapes[0]} where those are {shapes[1]}; make them equal or "
                "do not share.",
                "model.layers",
            )


_OF_KEYS = ("rope_theta", "rope_scale", "rope_share", "rope_layers", "qk_norm", "eps")


def _require_equal_keys(config: ModelConfig, kv_from: dict[int, int]) -> None:
    """Refuse a consumer that turns or norms its queries otherwise than the keys it reads are."""
    for layer, source in kv_from.items():
        own, read = (config.at(one).attention.options() for one in (layer, source))
        other = [
            name for name in _OF_KEYS if name in own and name in read and own[name] != read[name]
        ]
        if other:
            raise ConfigError(
                f"layer {layer} reads the keys of layer {source}, which are made with "
                f"{other[0]} = {read[other[0]]!r}, and asks with {own[other[0]]!r}; make them "
                "equal or do not share.",
                "model.layers",
            )


def _heads_of(kind: Kind, whole: HeadPlan) -> HeadPlan:
    """Return the part of the head plan that a layer of this kind keeps."""
    if kind == "parallel":
        return whole
    kept = HeadPlan(whole.attention, None) if kind == "attention" else HeadPlan(None, whole.d_inner)
    if kept.attention is None and kept.d_inner is None:
        raise ConfigError(
            f"the layer order asks for {kind} layers, but model.heads gives no {kind} heads; "
            "take heads: {name: hybrid, ...} or order: {name: parallel}.",
            "model.order",
        )
    return kept
