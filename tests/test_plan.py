"""The architecture in integers: laws of heads, order, placement and sharing, and of their sum."""

from typing import Any

import pytest
from examples import model_config, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st

from hymba_lab.components.heads import AttentionHeads, HeadPlan, heads
from hymba_lab.components.kv_sharing import kv_sharings
from hymba_lab.components.order import orders
from hymba_lab.components.placement import placements
from hymba_lab.components.topology import topologies
from hymba_lab.errors import ConfigError
from hymba_lab.model import LayerPlan, build_model, plan_layers
from hymba_lab.registry import Registry

laws = settings(max_examples=60, deadline=None, derandomize=True)
layer_counts = st.integers(1, 40)
windows_of = st.lists(st.sampled_from([None, 4, 8]), min_size=1, max_size=24)


def built(registry: Registry[Any], *facts: Any, name: str, **options: Any) -> Any:
    return registry.build(registry.spec(name, **options), *facts)


@pytest.mark.parametrize("name", list(heads))
@laws
@given(d_model=st.integers(1, 64).map(lambda n: 4 * n))
def test_heads_are_whole_and_grouped(name: str, d_model: int) -> None:
    plan = heads.build(spec_of("model.heads", name), d_model)
    assert plan.attention or plan.d_inner
    if plan.d_inner is not None:
        assert plan.d_inner > 0
    if plan.attention is not None:
        shape = plan.attention
        assert shape.n_heads % shape.n_kv_heads == 0
        assert shape.d_head > 0 and shape.d_head % 2 == 0
        assert shape.d_out == shape.n_heads * shape.d_head_v > 0


@laws
@given(expand=st.integers(1, 4), n_heads=st.sampled_from([1, 2, 4, 8]), n=st.integers(1, 16))
def test_hybrid_branches_are_equally_wide_unless_told(expand: int, n_heads: int, n: int) -> None:
    d_model = 8 * n
    options = {"n_heads": n_heads, "d_head": 6, "expand": expand}
    plan = built(heads, d_model, name="hybrid", **options)
    assert plan.attention.d_out == plan.d_inner == expand * d_model
    assert plan.attention.n_kv_heads == n_heads
    told = built(heads, d_model, name="hybrid", d_head_v=3, n_kv_heads=1, **options)
    assert told == HeadPlan(AttentionHeads(n_heads, 1, 6, 3), expand * d_model)


def test_parents_keep_one_branch() -> None:
    attention = built(heads, 32, name="attention_only", n_heads=4, d_head=8)
    assert attention == HeadPlan(AttentionHeads(4, 4, 8, 8), None)
    assert built(heads, 32, name="ssm_only", expand=3) == HeadPlan(None, 96)


@pytest.mark.parametrize("name", list(orders))
@laws
@given(n_layers=layer_counts)
def test_an_order_gives_every_layer_a_kind(name: str, n_layers: int) -> None:
    kinds = orders.build(spec_of("model.order", name), n_layers)
    assert len(kinds) == n_layers
    assert set(kinds) <= {"parallel", "attention", "ssm"}


def test_orders_follow_their_pattern() -> None:
    assert built(orders, 3, name="parallel") == ["parallel"] * 3
    assert built(orders, 3, name="sequential") == ["ssm", "attention", "ssm"]
    kinds = built(orders, 5, name="interleaved", pattern="ssap")
    assert kinds == ["ssm", "ssm", "attention", "parallel", "ssm"]


@pytest.mark.parametrize("name", list(placements))
@laws
@given(n_layers=layer_counts)
def test_a_placement_gives_every_layer_one_window_or_none(name: str, n_layers: int) -> None:
    windows = placements.build(spec_of("model.placement", name), n_layers)
    assert len(windows) == n_layers
    assert set(windows) <= {None, 4}  # the window that the examples ask for


@laws
@given(n_layers=layer_counts, period=st.integers(1, 9), offset=st.integers(0, 9))
def test_every_is_full_at_the_period(n_layers: int, period: int, offset: int) -> None:
    windows = built(placements, n_layers, name="every", window=5, period=period, offset=offset)
    for layer, window in enumerate(windows):
        assert (window is None) == (layer >= offset and (layer - offset) % period == 0)


@pytest.mark.parametrize(
    ("n_layers", "full"),
    [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [0, 1, 3]), (12, [0, 5, 11]), (32, [0, 15, 31])],
)
def test_first_middle_last(n_layers: int, full: list[int]) -> None:
    windows = built(placements, n_layers, name="first_middle_last", window=7)
    assert [layer for layer, window in enumerate(windows) if window is None] == full


@pytest.mark.parametrize("name", list(kv_sharings))
@laws
@given(windows=windows_of)
def test_a_consumer_reads_an_earlier_producer_of_its_window(
    name: str, windows: list[int | None]
) -> None:
    check_sharing(windows, kv_sharings.build(spec_of("model.kv_sharing", name), windows))


def check_sharing(windows: list[int | None], kv_from: list[int]) -> None:
    assert len(kv_from) == len(windows)
    for layer, source in enumerate(kv_from):
        assert 0 <= source <= layer
        assert kv_from[source] == source, "what is read is made by the layer itself"
        assert windows[source] == windows[layer]


@laws
@given(windows=windows_of, size=st.integers(1, 5), full=st.booleans())
def test_adjacent_groups_are_as_large_as_their_run_allows(
    windows: list[int | None], size: int, full: bool
) -> None:
    kv_from = built(kv_sharings, windows, name="adjacent", size=size, full=full)
    check_sharing(windows, kv_from)
    for layer, source in enumerate(kv_from):
        assert layer - source < size
        assert len({windows[i] for i in range(source, layer + 1)}) == 1, "a run is not interrupted"
        if windows[layer] is None and not full:
            assert source == layer
        elif layer and windows[layer] == windows[layer - 1] and source == layer:
            assert kv_from[layer - 1] == layer - size, "a group starts when the one before is full"


@laws
@given(windows=windows_of, data=st.data())
def test_explicit_groups_read_their_first_layer(
    windows: list[int | None], data: st.DataObject
) -> None:
    labels = data.draw(st.lists(st.integers(0, 3), min_size=len(windows), max_size=len(windows)))
    members: dict[Any, list[int]] = {}
    for layer, key in enumerate(zip(windows, labels, strict=True)):
        members.setdefault(key, []).append(layer)
    groups = list(members.values())
    kv_from = built(kv_sharings, windows, name="explicit", groups=groups)
    check_sharing(windows, kv_from)
    assert all(kv_from[layer] == group[0] for group in groups for layer in group)


@laws
@given(
    pattern=st.text("asp", min_size=1, max_size=5),
    full=st.sets(st.integers(0, 8)),
    size=st.integers(1, 4),
)
def test_the_plan_joins_the_axes(pattern: str, full: set[int], size: int) -> None:
    plan = plan_layers(
        model_config(
            d_model=8,
            n_layers=9,
            heads={"name": "hybrid", "n_heads": 2, "d_head": 4},
            order={"name": "interleaved", "pattern": pattern},
            placement={"name": "explicit", "window": 5, "full": sorted(full)},
            kv_sharing={"name": "adjacent", "size": size},
        )
    )
    kinds = {"a": "attention", "s": "ssm", "p": "parallel"}
    assert [layer.index for layer in plan] == list(range(9))
    assert [layer.kind for layer in plan] == [kinds[pattern[i % len(pattern)]] for i in range(9)]
    for layer in plan:
        if layer.kind == "ssm":
            assert (layer.heads, layer.window) == (HeadPlan(None, 16), None)
            assert layer.kv_from is None and not layer.owns_kv
            continue
        assert layer.kv_from is not None
        producer = plan[layer.kv_from]
        assert producer.owns_kv and producer.heads.attention == layer.heads.attention
        assert producer.window == layer.window == (None if layer.index in full else 5)
        between = plan[producer.index + 1 : layer.index]
        assert all(other.window == layer.window for other in between if other.heads.attention)


@pytest.mark.parametrize(
    ("heads", "pattern", "missing"),
    [
        ({"name": "ssm_only"}, "sa", "attention"),
        ({"name": "attention_only", "n_heads": 2, "d_head": 4}, "as", "ssm"),
    ],
)
def test_an_order_of_absent_heads_is_refused(heads: Any, pattern: str, missing: str) -> None:
    config = model_config(heads=heads, order={"name": "interleaved", "pattern": pattern})
    with pytest.raises(ConfigError, match=f"asks for {missing} layers.* gives no") as caught:
        plan_layers(config)
    assert caught.value.path == "model.order"


def test_a_plan_is_a_value() -> None:
    shape = HeadPlan(AttentionHeads(2, 1, 4, 8), 16)
    assert LayerPlan(3, shape, 5, 2) == LayerPlan(3, shape, 5, 2)
    assert not LayerPlan(3, shape, 5, 2).owns_kv and LayerPlan(2, shape, 5, 2).owns_kv


@pytest.mark.parametrize(
    ("axis", "made", "said"),
    [
        ("order", ["ssm"], "is not a list of 4 kinds of layers"),
        ("order", ["ssm", "ssm", "conv", "ssm"], "'conv'.* are no kinds of layers"),
        ("placement", [None], "is not a list of 4 windows"),
        ("kv_sharing", [1, 1, 2, 3], "layer 0 reads layer 1, which makes no keys before it"),
        ("topology", "a_s", "'a_s' is no topology"),
    ],
)
def test_what_a_plugin_s_plan_returns_is_looked_at(
    axis: str, made: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two kinds for four layers built a model of two, without a word."""
    registry = {"order": orders, "placement": placements, "kv_sharing": kv_sharings,
                "topology": topologies}[axis]  # fmt: skip
    monkeypatch.setattr(registry, "build", lambda *_: made)
    with pytest.raises(ConfigError, match=said) as caught:
        build_model(model_config(n_layers=4), 16)
    assert caught.value.path == f"model.{axis}"
