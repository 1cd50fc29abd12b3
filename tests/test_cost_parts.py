"""Costs part by part against closed forms written here, over random configurations."""

from collections import Counter
from typing import cast

import pytest
import torch
from examples import model_config
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cost import Shape, shapes
from torch import nn

from hymba_lab.components.fusion import fusions
from hymba_lab.cost import count, meta_model
from hymba_lab.cost.activations import activation_bytes
from hymba_lab.cost.cache import held_bytes, paper_bytes, released_bytes
from hymba_lab.cost.flops import decoding_flops, forward_flops
from hymba_lab.cost.model import PARTS, params_by_part
from hymba_lab.model import build_model
from hymba_lab.ops.cross_entropy import linear_cross_entropy
from hymba_lab.registry import Registry


def matrices(shape: Shape) -> Counter[str]:
    """Entries of the matrices by part, as in `Shape.matrices`."""
    found: Counter[str] = Counter()
    for kind, makes in zip(shape.kinds, shape.producers(), strict=True):
        if kind != "s":
            found["attention"] += shape.D * shape.H * shape.P
            found["attention"] += makes * shape.D * shape.K * (shape.P + shape.V)
        if kind != "a":
            found["ssm"] += 2 * shape.D * shape.E + shape.E * (shape.R + 2 * shape.N)
            found["ssm"] += shape.R * shape.E
        found["fusion"] += shape.out_width(kind) * shape.D
        found["mlp"] += (3 if shape.gated else 2) * shape.D * shape.F
    return found


def params(shape: Shape) -> dict[str, int]:
    found = matrices(shape)
    n_ssm, n_both = sum(kind != "a" for kind in shape.kinds), shape.kinds.count("p")
    inner = (shape.R + 2 * shape.N) * shape.norms
    found["ssm"] += n_ssm * (shape.E * (shape.C + 1 + 1 + shape.N + 1) + inner)
    branch_norms = 0 if shape.fusion == "sum" else shape.H * shape.V + shape.E
    found["fusion"] += n_both * (branch_norms + shape.D * (shape.fusion == "gate"))
    found["norms"] = shape.D * (1 + shape.L * (2 if shape.F else 1))
    found["embedding"], found["meta_tokens"] = shape.vocab * shape.D, shape.M * shape.D
    found["head"] = 0 if shape.tied else shape.vocab * shape.D
    return {part: found[part] for part in PARTS}


def flops(shape: Shape, positions: range, n_logits: int) -> dict[str, int]:
    """FLOPs of the queries at `positions`, keys counted one by one."""
    found = Counter({part: 2 * len(positions) * n for part, n in matrices(shape).items()})
    for layer, kind in enumerate(shape.kinds):
        if kind != "a":
            found["ssm"] += len(positions) * shape.E * (2 * shape.C + 9 * shape.N)
        if kind != "s":
            full = layer in shape.full
            seen = sum(
                full or query - key < shape.W or key < shape.M
                for query in positions
                for key in range(query + 1)
            )
            found["attention"] += 2 * shape.H * (shape.P + shape.V) * seen
    found["head"] = 2 * n_logits * shape.D * shape.vocab
    return {part: found[part] for part in PARTS}


@pytest.mark.slow
@settings(max_examples=15, deadline=None, derandomize=True)
@given(shape=shapes(), context=st.integers(1, 12))
def test_every_part_equals_its_closed_form(shape: Shape, context: int) -> None:
    check_parts(shape, context)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True)
@given(shape=shapes(), context=st.integers(1, 12))
def test_every_part_equals_its_closed_form_in_hundreds_of_shapes(
    shape: Shape, context: int
) -> None:
    check_parts(shape, context)


def check_parts(shape: Shape, context: int) -> None:
    model = meta_model(model_config(**shape.config()), shape.vocab)
    assert params_by_part(model) == params(shape)
    assert sum(params_by_part(model).values()) == count(model)
    assert forward_flops(model, shape.T) == flops(shape, range(shape.M + shape.T), shape.T)
    position = shape.M + context
    assert decoding_flops(model, context) == flops(shape, range(position, position + 1), 1)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=shapes(),
    n_tokens=st.integers(1, 30),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
)
def test_caches_by_three_accountings(shape: Shape, n_tokens: int, dtype: torch.dtype) -> None:
    config = model_config(**shape.config())
    model = meta_model(config, shape.vocab)
    n_ssm = sum(kind != "a" for kind in shape.kinds)
    kv = shape.K * (shape.P + shape.V)
    windows = [None if layer in shape.full else shape.W for layer in range(shape.L)]
    producing = [w for w, makes in zip(windows, shape.producers(), strict=True) if makes]
    ours = sum(kv * (shape.M + min(n_tokens, w or n_tokens)) for w in producing)
    inputs, states = n_ssm * shape.E * (shape.C - 1), n_ssm * shape.E * shape.N
    held = dtype.itemsize * (ours + inputs) + 4 * states
    assert held_bytes(config, shape.vocab, n_tokens, dtype) == held
    released = sum(
        kv * (shape.M + (n_tokens if w is None else min(n_tokens, w - 1))) for w in producing
    )
    released += n_ssm * shape.E * (shape.C + shape.N)
    assert released_bytes(config, model, n_tokens) == 2 * released
    if shape.share == 1:
        attending = [w for w, kind in zip(windows, shape.kinds, strict=True) if kind != "s"]
        paper = sum(
            kv * (n_tokens + shape.M if w is None else min(n_tokens, w - 1)) for w in attending
        )
        paper += states if attending else states + inputs
        assert paper_bytes(config, model, n_tokens) == 2 * paper


@pytest.mark.parametrize(
    ("n_layers", "size", "counted"), [(4, 2, 2.0), (5, 2, 2.5), (6, 3, 2.0), (7, 3, 7 / 3)]
)
def test_the_paper_counts_groups_in_fractions(n_layers: int, size: int, counted: float) -> None:
    config = model_config(
        n_layers=n_layers,
        heads={"name": "attention_only", "n_heads": 2, "d_head": 4},
        placement={"name": "all_window", "window": 6},
        kv_sharing={"name": "adjacent", "size": size},
    )
    found = paper_bytes(config, meta_model(config, 9), 100)
    assert found == pytest.approx(2 * counted * 5 * 2 * (4 + 4))


@pytest.mark.parametrize("kinds", ["p", "a", "s"])
def test_activations_are_about_what_a_real_step_saves(kinds: str) -> None:
    """The fused attention of this machine saves a little else than the estimate's."""
    config = model_config(
        d_model=32,
        heads={"name": "hybrid", "n_heads": 4, "d_head": 16},
        order={"name": "interleaved", "pattern": kinds},
        meta_tokens={"name": "learned", "n_meta": 3},
        mlp={"name": "swiglu", "d_ff": 96},
    )
    model = build_model(config, 50)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    tokens = torch.zeros(1, 64, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = model.features(tokens).flatten(0, 1)
        linear_cross_entropy(features, model.head_weight, tokens.flatten(), torch.ones(64))
    real = sum(storage.nbytes() for at, storage in saved.items() if at not in weights)
    assert activation_bytes(config, 50, 64, "fp32") == pytest.approx(real, rel=0.3)


def test_activations_grow_with_the_text_and_shrink_with_the_precision() -> None:
    config = model_config()
    short, long = (activation_bytes(config, 13, n, "fp32") for n in (512, 1024))
    assert long == pytest.approx(2 * short, rel=0.01)
    assert short / 2 < activation_bytes(config, 13, 512, "bf16-mixed") < short


@pytest.mark.slow
def test_a_newcomer_is_counted_in_its_part() -> None:
    """A fusion that says nothing about its costs: two more parameters and products a channel."""
    from hymba_lab.components.fusion import Sum

    class Twice(Sum):
        """y = W (a + s) + x M."""

        def __init__(self, d_attn: int, d_ssm: int, d_model: int) -> None:
            super().__init__(d_attn, d_ssm, d_model)
            self.more = nn.Linear(d_model, d_model, bias=False)

        def forward(self, a: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
            y = super().forward(a, s)
            return y + cast(torch.Tensor, self.more(y))

    registry: Registry[nn.Module] = fusions
    registry.register("twice_again")(Twice)
    try:
        plain = meta_model(model_config(fusion={"name": "sum"}), 13)
        more = meta_model(model_config(fusion={"name": "twice_again"}), 13)
    finally:
        registry.remove("twice_again")
    n_layers, D = 2, 16
    for part in PARTS:
        added = n_layers * D * D if part == "fusion" else 0
        assert params_by_part(more)[part] - params_by_part(plain)[part] == added
        assert decoding_flops(more, 5)[part] - decoding_flops(plain, 5)[part] == 2 * added
