"""Costs against closed forms counted here by hand, from the integers of a configuration alone."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from examples import experiment, model_config
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from hymba_lab.cost import count, measure_costs, meta_model
from hymba_lab.model import build_model
from hymba_lab.registry import Registry

EIGHT_K, BYTES = 8000, 2  # what the paper's cache column counts


@dataclass
class Shape:
    """A random architecture as plain integers, and its costs by hand."""

    D: int  # d_model
    L: int  # layers
    kinds: str  # one of p, a, s per layer
    H: int  # query heads
    K: int  # key/value heads
    P: int  # channels of a query/key head
    V: int  # channels of a value head
    E: int  # d_inner
    N: int  # states per channel
    C: int  # convolution length
    R: int  # rank of dt
    F: int  # MLP width, 0 = none
    gated: bool  # SwiGLU, else two matrices
    fusion: str
    M: int  # meta tokens
    W: int  # window
    full: list[int]
    share: int  # layers in a sharing group
    tied: bool
    norms: bool  # on dt, B, C
    vocab: int
    T: int  # text tokens

    def config(self) -> dict[str, Any]:
        mlp = {"name": "swiglu" if self.gated else "relu2", "d_ff": self.F}
        meta = {"name": "learned", "n_meta": self.M}
        return {
            "d_model": self.D,
            "n_layers": self.L,
            "tie_embeddings": self.tied,
            "heads": {
                "name": "hybrid", "n_heads": self.H, "n_kv_heads": self.K, "d_head": self.P,
                "d_head_v": self.V, "expand": self.E // self.D,
            },
            "order": {"name": "interleaved", "pattern": self.kinds},
            "fusion": {"name": self.fusion},
            "meta_tokens": meta if self.M else {"name": "none"},
            "placement": {"name": "explicit", "window": self.W, "full": self.full},
            "kv_sharing": {"name": "adjacent", "size": self.share},
            "ssm": {
                "name": "mamba1", "d_state": self.N, "d_conv": self.C, "dt_rank": self.R,
                "inner_norms": self.norms,
            },
            "mlp": mlp if self.F else {"name": "none"},
        }  # fmt: skip

    def producers(self) -> list[bool]:
        """Per layer: whether it makes keys and values of its own."""
        makes, run, last = [], 0, -1
        for layer, kind in enumerate(self.kinds):
            if kind == "s":
                makes.append(False)
                continue
            follows = last >= 0 and (last in self.full) == (layer in self.full)
            run = run + 1 if follows else 0
            makes.append(layer in self.full or run % self.share == 0)
            last = layer
        return makes

    def matrices(self) -> int:
        """Entries of all matrices that every position, meta tokens included, is multiplied by."""
        q, kv = self.D * self.H * self.P, self.D * self.K * (self.P + self.V)
        ssm = 2 * self.D * self.E + self.E * (self.R + 2 * self.N) + self.R * self.E
        total = self.L * (3 if self.gated else 2) * self.D * self.F
        for kind, makes in zip(self.kinds, self.producers(), strict=True):
            total += (q + kv * makes) * (kind != "s") + ssm * (kind != "a")
            total += self.out_width(kind) * self.D
        return total

    def out_width(self, kind: str) -> int:
        both = self.H * self.V + self.E if self.fusion in ("concat", "gate") else self.E
        return {"p": both, "a": self.H * self.V, "s": self.E}[kind]

    def params(self) -> int:
        n_ssm = sum(kind != "a" for kind in self.kinds)
        vectors = self.D * (1 + self.L * (2 if self.F else 1))  # norms around mixer and MLP
        vectors += n_ssm * self.E * (self.C + 1 + 1 + self.N + 1)  # conv, dt bias, A, D
        vectors += n_ssm * (self.R + 2 * self.N) * self.norms
        fusion_norms = 0 if self.fusion == "sum" else self.H * self.V + self.E
        vectors += self.kinds.count("p") * (fusion_norms + self.D * (self.fusion == "gate"))
        embeddings = self.vocab * self.D * (1 if self.tied else 2) + self.M * self.D
        return self.matrices() + vectors + embeddings

    def flops(self) -> int:
        """2 per multiply-add; scan 9 per state; norms and activations are not counted."""
        n, n_ssm = self.M + self.T, sum(kind != "a" for kind in self.kinds)
        total = 2 * n * self.matrices() + 2 * self.T * self.D * self.vocab
        total += n_ssm * n * self.E * (2 * self.C + 9 * self.N)
        for layer, kind in enumerate(self.kinds):
            if kind != "s":
                total += 2 * self.H * (self.P + self.V) * self.pairs(layer in self.full)
        return total

    def pairs(self, full: bool) -> int:
        n = self.M + self.T
        return sum(
            full or query - key < self.W or key < self.M
            for query in range(n)
            for key in range(query + 1)
        )

    def cache(self, n_tokens: int) -> int:
        """Values kept after the text's `n_tokens`: keys and values, state, last inputs."""
        total = sum(kind != "a" for kind in self.kinds) * self.E * (self.N + self.C - 1)
        for layer, makes in enumerate(self.producers()):
            seen = n_tokens if layer in self.full else min(n_tokens, self.W)
            total += makes * (self.M + seen) * self.K * (self.P + self.V)
        return total


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    D, K, layers = (
        draw(st.sampled_from([8, 16])),
        draw(st.sampled_from([1, 2])),
        draw(st.integers(1, 4)),
    )
    H, expand = K * draw(st.sampled_from([1, 2])), draw(st.integers(1, 2))
    fusion = draw(st.sampled_from(["mean", "concat", "sum", "difference", "gate"]))
    free = fusion in ("concat", "gate")
    small = st.integers(1, 5)
    return Shape(
        D=D, L=layers, kinds=draw(st.text("pas", min_size=layers, max_size=layers)), H=H, K=K,
        P=2 * draw(small), V=draw(small) if free else expand * D // H, E=expand * D, N=draw(small),
        C=draw(small), R=draw(small), F=draw(st.sampled_from([0, 12, 20])),
        gated=draw(st.booleans()), fusion=fusion, M=draw(st.integers(0, 4)),
        W=draw(st.integers(1, 9)),
        full=sorted(draw(st.sets(st.integers(0, layers - 1)))), share=draw(st.integers(1, 3)),
        tied=draw(st.booleans()), norms=draw(st.booleans()), vocab=draw(st.integers(5, 40)),
        T=draw(st.integers(1, 12)),
    )  # fmt: skip


EVERYTHING = Shape(
    D=8, L=8, kinds="ppaspapp", H=4, K=2, P=6, V=4, E=16, N=3, C=4, R=2, F=12, gated=True,
    fusion="gate", M=3, W=5, full=[0, 6], share=2, tied=False, norms=True, vocab=11, T=9,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@example(shape=EVERYTHING)
@example(shape=replace(EVERYTHING, share=3, gated=False, fusion="concat", tied=True, norms=False))
@given(shape=shapes())
def test_costs_equal_the_count_by_hand(shape: Shape) -> None:
    costs = measure_costs(model_config(**shape.config()), shape.vocab, shape.T)
    assert costs.params == shape.params()
    assert costs.flops_per_token * shape.T == pytest.approx(shape.flops(), rel=1e-12)
    assert costs.cache_bytes == BYTES * shape.cache(EIGHT_K)


def test_the_count_is_of_the_model_that_is_trained() -> None:
    config = experiment(meta_tokens={"name": "learned", "n_meta": 3}).model
    real = build_model(config, 13)
    assert measure_costs(config, 13, 8).params == sum(p.numel() for p in real.parameters())
    ghost = meta_model(config, 13)
    assert all(p.is_meta for p in ghost.parameters())
    assert [p.shape for p in ghost.parameters()] == [p.shape for p in real.parameters()]


def test_counting_draws_no_random_number() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    measure_costs(model_config(), 13, 8)
    assert torch.equal(torch.get_rng_state(), before)


def test_sharing_a_tensor_counts_it_once() -> None:
    layer = nn.Linear(3, 3, bias=False)
    assert count(nn.Sequential(layer, layer)) == 9


def test_the_ratio_is_the_papers() -> None:
    """Table 10, row 5: the mixer without Wq, Wk, Wv over Wq + Wk + Wv."""
    config = model_config(
        d_model=1024,
        heads={"name": "hybrid", "n_heads": 16, "n_kv_heads": 4, "d_head": 64, "d_head_v": 128},
        ssm={"name": "mamba1", "d_state": 16, "dt_rank": 64},
    )
    costs = measure_costs(config, 100, 8)
    assert costs.ssm_to_attention == 6_670_432 / (1024 * (1024 + 256 + 512))
    assert round(costs.ssm_to_attention, 2) == 3.64


def test_a_parent_has_no_ratio() -> None:
    for heads in ({"name": "ssm_only"}, {"name": "attention_only", "n_heads": 4, "d_head": 6}):
        assert math.isnan(measure_costs(model_config(heads=heads), 13, 8).ssm_to_attention)


def test_a_newcomer_has_its_costs_for_free() -> None:
    """A component that says nothing about its costs is counted by what it holds and does."""
    from hymba_lab.components.fusion import Sum, fusions

    class Twice(Sum):
        """y = W W (a + s)."""

        def forward(self, a: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
            return super().forward(a, s) @ self.square

        def __init__(self, d_attn: int, d_ssm: int, d_model: int) -> None:
            super().__init__(d_attn, d_ssm, d_model)
            self.square = nn.Parameter(torch.empty(d_model, d_model))

    registry: Registry[nn.Module] = fusions
    registry.register("twice")(Twice)
    try:
        before = measure_costs(model_config(fusion={"name": "sum"}), 13, 8)
        after = measure_costs(model_config(fusion={"name": "twice"}), 13, 8)
    finally:
        registry.remove("twice")
    assert after.params - before.params == 2 * 16 * 16
    assert after.flops_per_token - before.flops_per_token == 2 * 2 * 16 * 16
