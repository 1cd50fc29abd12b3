"""Who sees whom: windows, meta tokens, positions, and keys and values that layers share."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from examples import model_config
from torch import Tensor

from hymba_lab.model import LanguageModel, build_model

VOCAB, N_TOKENS, D_MODEL = 13, 12, 16
ATTENTION = {"name": "attention_only", "n_heads": 4, "n_kv_heads": 2, "d_head": 6}
LEARNED = {"name": "learned", "n_meta": 3}
SHARED = {
    "n_layers": 6,
    "meta_tokens": LEARNED,
    "placement": {"name": "first_middle_last", "window": 4},
    "kv_sharing": {"name": "adjacent"},
}


def model_of(**model: Any) -> LanguageModel:
    torch.manual_seed(0)
    return build_model(model_config(**model), VOCAB)


def tokens_of(n_tokens: int = N_TOKENS) -> Tensor:
    return torch.randint(0, VOCAB, (1, n_tokens), generator=torch.Generator().manual_seed(3))


def influence(apply: Callable[[Tensor], Tensor], n_tokens: int = N_TOKENS) -> Tensor:
    """(T, T) bool: whether output i of a map (1, T, D) -> (1, T, D) moves with input j."""
    x = torch.randn(1, n_tokens, D_MODEL, generator=torch.Generator().manual_seed(5))
    x.requires_grad_()
    y = apply(x)
    rows = [torch.autograd.grad(y[0, i].sum(), x, retain_graph=True)[0] for i in range(n_tokens)]
    return torch.stack([row[0].abs().amax(-1) > 0 for row in rows])


# --- windows and meta tokens


@pytest.mark.parametrize("window", [1, 3, N_TOKENS - 1, N_TOKENS, N_TOKENS + 5])
@pytest.mark.parametrize("meta", [{"name": "none"}, LEARNED], ids=["bare", "meta"])
def test_a_window_counts_the_query_and_spares_meta_tokens(window: int, meta: Any) -> None:
    placement = {"name": "all_window", "window": window}
    model = model_of(heads=ATTENTION, n_layers=1, placement=placement, meta_tokens=meta)
    n_meta = model.meta.n_meta if model.meta else 0
    seen = influence(lambda x: model.blocks[0].mixer(x, None)[0], n_meta + N_TOKENS)
    for query in range(len(seen)):
        for key in range(len(seen)):
            allowed = key <= query and (query - key < window or key < n_meta)
            assert bool(seen[query, key]) == allowed, (query, key)


def test_windows_widen_by_the_layer() -> None:
    """Two layers of window 3 reach 2 * (3 - 1) tokens back."""
    placement = {"name": "all_window", "window": 3}
    model = model_of(heads=ATTENTION, placement=placement)
    seen = influence(lambda x: model.blocks[1](model.blocks[0](x)[0])[0])
    distance = torch.arange(N_TOKENS)[:, None] - torch.arange(N_TOKENS)
    assert torch.equal(seen, (distance >= 0) & (distance <= 4))


def test_the_ssm_sees_past_the_window() -> None:
    model = model_of(n_layers=1, placement={"name": "all_window", "window": 1})
    seen = influence(lambda x: model.blocks[0](x)[0])
    assert torch.equal(seen, torch.ones_like(seen).tril())


def test_meta_tokens_stand_before_the_text_and_are_cut_off() -> None:
    placement = {"name": "all_window", "window": 2}
    model = model_of(heads=ATTENTION, n_layers=1, placement=placement, meta_tokens=LEARNED)
    assert model.meta is not None
    tokens = tokens_of()
    before = model(tokens)
    with torch.no_grad():
        model.meta.tokens[1] += 1
    assert ((model(tokens) - before).abs().amax(dim=(0, 2)) > 1e-6).all()
    assert model.meta.tokens.std() > 0.5, "N(0, 1), not the embedding's start"


def test_positions_are_relative() -> None:
    """With RoPE and a window, what stands before the window does not matter, nor how much of it."""
    model = model_of(heads=ATTENTION, n_layers=1, placement={"name": "all_window", "window": 4})
    seen = tokens_of(n_tokens=4)
    long = torch.cat([tokens_of(n_tokens=7).flip(1), seen], dim=1)
    torch.testing.assert_close(model(long)[:, -1], model(seen)[:, -1], rtol=1e-4, atol=1e-6)
    shuffled = seen[:, [1, 0, 2, 3]]
    assert (model(shuffled)[:, -1] - model(seen)[:, -1]).abs().max() > 1e-6
    blind = model_of(heads=ATTENTION, n_layers=1, attention={"name": "softmax", "rope_theta": None})
    torch.testing.assert_close(blind(shuffled)[:, -1], blind(seen)[:, -1], rtol=1e-4, atol=1e-6)


# --- sharing


def test_a_consumer_owns_no_keys_and_values() -> None:
    model = model_of(**SHARED)
    assert [layer.kv_from for layer in model.plan] == [0, 1, 2, 3, 3, 5]
    for layer, block in zip(model.plan, model.blocks, strict=True):
        names = {name for name, _ in block.mixer.attention.named_parameters()}
        owned = {"k.weight", "v.weight"} if layer.index == layer.kv_from else set()
        assert names == {"q.weight"} | owned


def test_a_consumer_reads_its_producers_keys_and_values() -> None:
    model = model_of(**SHARED)
    used: list[Any] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _block, _given, result: used.append(result[1]))
    model(tokens_of())
    assert used[4][0] is used[3][0] and used[4][1] is used[3][1]
    assert all(first[0] is not second[0] for first, second in pairwise(used[:4]))


def test_what_a_consumer_is_given_matters() -> None:
    model = model_of(**SHARED)
    x = torch.randn(1, N_TOKENS, D_MODEL)
    keys, values = model.blocks[3](x)[1]
    y, used = model.blocks[4](x, (keys, values))
    assert used[0] is keys and used[1] is values
    assert (model.blocks[4](x, (keys, 2 * values))[0] - y).abs().max() > 1e-6
    assert (model.blocks[4](x, (keys.flip(2), values))[0] - y).abs().max() > 1e-6
