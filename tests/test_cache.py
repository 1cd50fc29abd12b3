"""The cache: generation in steps equals the whole forward pass, in buffers of a known size."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from examples import model_config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hymba_lab.errors import UserError
from hymba_lab.model import LanguageModel, build_model
from hymba_lab.model.cache import Cache

VOCAB = 13
LEARNED = {"name": "learned", "n_meta": 3}
HYMBA = {
    "n_layers": 6,
    "meta_tokens": LEARNED,
    "placement": {"name": "first_middle_last", "window": 4},
    "kv_sharing": {"name": "adjacent"},
}


def model_of(**model: Any) -> LanguageModel:
    torch.manual_seed(0)
    return build_model(model_config(init_std=0.2, **model), VOCAB).eval()


def tokens_of(n_rows: int, n_tokens: int) -> Tensor:
    return torch.randint(0, VOCAB, (n_rows, n_tokens), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def in_steps(model: LanguageModel, tokens: Tensor, sizes: list[int]) -> tuple[Tensor, Cache]:
    """Logits of all tokens, given in steps of `sizes` and then one by one."""
    cache = model.cache(*tokens.shape)
    sizes = sizes + [1] * (tokens.shape[1] - sum(sizes))
    return torch.cat([model.logits(model.features(t, cache)) for t in tokens.split(sizes, 1)], 1), (
        cache
    )


@st.composite
def architectures(draw: st.DrawFn) -> dict[str, Any]:
    n_layers, groups = draw(st.integers(1, 5)), draw(st.sampled_from([1, 2, 4]))
    n_meta = draw(st.integers(0, 4))
    kind = draw(st.sampled_from(["hybrid", "hybrid", "attention_only", "ssm_only"]))
    heads: dict[str, Any] = {"name": kind}
    if kind != "ssm_only":
        heads |= {"n_heads": 4, "n_kv_heads": groups, "d_head": 2 * draw(st.integers(1, 3))}
    full = draw(st.sets(st.integers(0, n_layers - 1)))
    pattern = "".join(draw(st.lists(st.sampled_from("pas"), min_size=1, max_size=3)))
    order = {"name": "interleaved", "pattern": pattern} if kind == "hybrid" else None
    window = {"name": "explicit", "window": draw(st.integers(1, 7)), "full": sorted(full)}
    meta = {"name": "learned", "n_meta": n_meta}
    theta = draw(st.sampled_from([None, 100.0]))
    return {
        "n_layers": n_layers,
        "heads": heads,
        "order": order or {"name": "interleaved", "pattern": "s" if kind == "ssm_only" else "a"},
        "placement": window,
        "kv_sharing": {"name": "adjacent", "size": draw(st.integers(1, 3)), "full": True},
        "meta_tokens": meta if n_meta else {"name": "none"},
        "attention": {"name": "softmax", "rope_theta": theta},
        "ssm": {
            "name": "mamba1",
            "d_state": draw(st.integers(1, 5)),
            "d_conv": draw(st.integers(1, 5)),
        },
    }


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(architecture=architectures(), sizes=st.lists(st.integers(1, 9), max_size=3))
def test_steps_equal_the_whole_forward_pass(architecture: dict[str, Any], sizes: list[int]) -> None:
    model, tokens = model_of(**architecture), tokens_of(2, 30)
    with torch.no_grad():
        whole = model(tokens)
    logits, _ = in_steps(model, tokens, sizes)
    torch.testing.assert_close(logits, whole, rtol=0, atol=1e-4)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(architecture=architectures(), n_tokens=st.integers(1, 12), n_rows=st.integers(1, 3))
def test_the_bytes_held_are_those_announced(
    architecture: dict[str, Any], n_tokens: int, n_rows: int
) -> None:
    model = model_of(**architecture)
    elements = sum(
        math.prod(shape)
        for module in model.modules()
        if hasattr(module, "cache_shapes")
        for shape in module.cache_shapes(n_tokens).values()
    )
    assert model.cache(n_rows, n_tokens).nbytes == 4 * n_rows * elements


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bytes_held_by_hand(dtype: torch.dtype) -> None:
    """4 layers make keys (3 full), 1 more reads them; the state is float32 in any precision."""
    model, n_rows, n_tokens = model_of(**HYMBA).to(dtype), 2, 20
    per_key = 2 * (6 + 8)  # key heads * (d_head + d_head_v)
    keys = 3 * (3 + 20) + 2 * (3 + 4)
    values = n_rows * (keys * per_key + 6 * 32 * 3)  # convolution: 6 layers, 32 channels, 3 inputs
    assert [layer.owns_kv for layer in model.plan] == [True, True, True, True, False, True]
    cache = model.cache(n_rows, n_tokens)
    assert cache.nbytes == values * dtype.itemsize + 4 * n_rows * 6 * 32 * 4


def test_the_published_model_on_the_meta_device() -> None:
    from test_parity import DATA

    from hymba_lab.checkpoints.hf_checkpoint import meta_model
    from hymba_lab.checkpoints.hf_config import read_released

    path = DATA / "hymba_1p5b_config.json"
    cache = meta_model(read_released(path)[0], path).to(torch.bfloat16).cache(1, 8000)
    keys = 3 * 8128 + 14 * (128 + 1025)
    assert cache.nbytes == 2 * keys * 960 + 32 * 3200 * (2 * 3 + 4 * 16)


def test_buffers_are_made_once() -> None:
    model, tokens = model_of(**HYMBA), tokens_of(2, 25)
    cache = model.cache(2, 25)
    buffers = [
        (buffer, buffer.data_ptr())
        for layer in cache.layers
        for past in layer
        for buffer in getattr(past, "buffers", {}).values()
    ]
    assert sum(buffer.nbytes for buffer, _ in buffers) == cache.nbytes
    with torch.no_grad():
        for chunk in tokens.split([9, 7, *[1] * 9], 1):
            model.features(chunk, cache)
    after = [
        b.data_ptr()
        for layer in cache.layers
        for past in layer
        for b in getattr(past, "buffers", {}).values()
    ]
    assert after == [place for _, place in buffers]
    assert not cache.layers[4].attention.buffers, "a consumer keeps nothing"


def test_a_ring_holds_just_the_window() -> None:
    """Every token takes one slot: that of the token which leaves the window."""
    model = model_of(
        n_layers=1,
        order={"name": "interleaved", "pattern": "a"},
        placement={"name": "all_window", "window": 4},
    )
    tokens = tokens_of(1, 14)
    cache = model.cache(1, 14)
    kept = cache.layers[0].attention.buffers["k"]
    assert kept.shape[2] == 4
    with torch.no_grad():
        for token in tokens.split(1, 1):
            before = kept.clone()
            model.features(token, cache)
            changed = (kept != before).any(dim=(0, 1, 3))
            assert changed.nonzero().flatten().tolist() == [(cache.rows.longest - 1) % 4]


@torch.no_grad()
def test_padding_leaves_no_trace() -> None:
    """Rows of unequal length in one chunk: every row's states are those of the row alone."""
    model, lengths = model_of(**HYMBA), [9, 1, 4, 6]
    tokens = tokens_of(4, 9)
    together = model.cache(4, 12)
    for first, last in pairwise([0, 4, 9]):
        n_real = torch.tensor([min(max(n - first, 0), last - first) for n in lengths])
        model.features(tokens[:, first:last], together, n_real)
    next_features = model.features(tokens[:, :1], together)
    for row, length in enumerate(lengths):
        alone = model.cache(1, 12)
        model.features(tokens[row : row + 1, :length], alone)
        single = model.features(tokens[row : row + 1, :1], alone)
        torch.testing.assert_close(next_features[row : row + 1], single, rtol=0, atol=1e-5)
        for mine, own in zip(together.layers, alone.layers, strict=True):
            for name, state in own.ssm.buffers.items():
                torch.testing.assert_close(mine.ssm.buffers[name][row], state[0])


def test_rows_do_not_outgrow_the_cache() -> None:
    model = model_of(**HYMBA)
    cache = model.cache(1, 4)
    with torch.no_grad():
        model.features(tokens_of(1, 4), cache)
    with pytest.raises(ValueError, match="made for 4 tokens"):
        model.features(tokens_of(1, 1), cache)


def test_a_chunk_starts_where_all_rows_stand() -> None:
    model = model_of(**HYMBA)
    cache = model.cache(2, 9)
    with torch.no_grad():
        model.features(tokens_of(2, 3), cache, torch.tensor([3, 2]))
    with pytest.raises(ValueError, match="differ in length"):
        model.features(tokens_of(2, 2), cache)


def test_a_component_without_a_cache_says_so() -> None:
    model = model_of()
    model.blocks[0].mixer.ssm = torch.nn.Linear(16, 32)
    with pytest.raises(UserError, match="Linear cannot generate: it has no cache_shapes"):
        model.cache(1, 4)
