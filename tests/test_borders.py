"""Documents packed into rows: each is computed as alone, and none sees another."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from examples import experiment
from hypothesis import given, settings
from hypothesis import strategies as st

from hymba_lab.data.source import Batch
from hymba_lab.model import build_model
from hymba_lab.training.scoring import batch_loss, pick

T, VOCAB = 24, 40

MODELS = {
    "both": {},
    "meta tokens": {"meta_tokens": {"name": "learned", "n_meta": 3}},
    "window": {
        "placement": {"name": "all_window", "window": 4},
        "kv_sharing": {"name": "adjacent", "size": 2},
    },
    "mamba2": {"ssm": {"name": "mamba2", "d_head": 4, "d_state": 3}},
    "delta": {
        "ssm": {"name": "gated_delta", "d_head": 4},
        "attention": {"name": "softmax", "sink": "learned", "qkv_conv": 3},
    },
    "canon": {
        "short_conv": {"name": "canon", "before": ["mixer", "mlp"]},
        "attention": {"name": "softmax", "value_residual": True, "output_gate": "per_head"},
    },
    "attention": {"heads": {"name": "attention_only", "n_heads": 4, "n_kv_heads": 2, "d_head": 6}},
    "ssm": {
        "heads": {"name": "ssm_only", "expand": 2},
        "meta_tokens": {"name": "learned", "n_meta": 3},
    },
}  # fmt: skip


def model_of(kind: str, **more):
    torch.manual_seed(0)
    model = build_model(experiment(**{**MODELS[kind], **more}).model, VOCAB)
    return model.double()


def packed(lengths: list[list[int]], seed=0):
    """Return tokens (B, T) and starts of documents of these lengths, T together in each row."""
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCAB, (len(lengths), T), generator=rng)
    starts = torch.zeros_like(tokens, dtype=torch.bool)
    for row, parts in enumerate(lengths):
        starts[row, [sum(parts[:n]) for n in range(len(parts))]] = True
    return tokens, starts


LENGTHS = [[5, 1, 11, 7], [24], [2, 3, 1, 1, 17]]


@pytest.mark.parametrize("kind", MODELS)
def test_packed_is_as_separate_rows(kind):
    model = model_of(kind)
    tokens, starts = packed(LENGTHS)
    together = model.features(tokens, starts=starts)
    assert together.shape == (3, T, 16)
    for row, parts in enumerate(LENGTHS):
        at = 0
        for length in parts:
            alone = model.features(tokens[row : row + 1, at : at + length])
            torch.testing.assert_close(together[row, at : at + length], alone[0])
            at += length


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_those_of_separate_rows(kind):
    tokens, starts = packed(LENGTHS)
    weights = torch.randn(3, T, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    one, two = model_of(kind), model_of(kind)
    (one.features(tokens, starts=starts) * weights).sum().backward()
    for row, parts in enumerate(LENGTHS):
        at = 0
        for length in parts:
            part = slice(at, at + length)
            (two.features(tokens[row : row + 1, part]) * weights[row, part]).sum().backward()
            at += length
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
@settings(deadline=None, max_examples=8)
@given(st.integers(1, T - 1), st.integers(0, T - 1), st.integers(0, 99))
def test_no_document_leaks_into_the_next(kind, border, place, seed):
    """Change a token of document A: nothing of document B changes, not in a single bit."""
    model = model_of(kind)
    tokens, starts = packed([[border, T - border]], seed)
    place = place % border
    changed = tokens.clone()
    changed[0, place] = tokens[0, place] % (VOCAB - 1) + 1
    with torch.no_grad():
        before, after = (model.features(t, starts=starts)[0] for t in (tokens, changed))
    assert torch.equal(before[border:], after[border:])
    assert torch.equal(before[:place], after[:place])
    assert not torch.equal(before[place:border], after[place:border])
    with torch.no_grad():
        leaks = not torch.equal(
            model.features(tokens)[0, border:], model.features(changed)[0, border:]
        )
    assert leaks or kind == "window"  # without borders it does


def test_no_start_is_one_document_a_row():
    model = model_of("both")
    tokens, _ = packed([[T], [T]])
    none = torch.zeros_like(tokens, dtype=torch.bool)
    torch.testing.assert_close(model.features(tokens, starts=none), model.features(tokens))


def test_calls_are_few_and_padding_is_less_than_the_text(monkeypatch):
    from hymba_lab.model.documents import by_document

    seen = []

    def features(rows):
        seen.append(rows.numel())
        return rows[..., None].double()

    tokens, starts = packed(LENGTHS)
    assert torch.equal(by_document(features, tokens, starts)[..., 0], tokens.double())
    assert len(seen) <= 5 and sum(seen) < 2 * tokens.numel()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["copies", "shard"])
def test_two_ranks_compute_their_own_documents(way):
    """Of other lengths than the other rank's: without its padding, and without a wait for ever."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    program = str(Path(__file__).with_name("borders_on_two_ranks.py"))
    ranks = [
        subprocess.Popen(
            [sys.executable, program, way], env={**os.environ, **common, "RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in ranks:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors


def test_the_loss_sees_the_borders():
    model = model_of("both").float()
    tokens, starts = packed(LENGTHS)
    batch = Batch(tokens, tokens.roll(-1, 1), torch.zeros(3, dtype=torch.long), starts)
    with_borders, _ = batch_loss(model, pick(batch), [3 * T])
    without, _ = batch_loss(model, pick(batch._replace(starts=None)), [3 * T])
    expected = torch.nn.functional.cross_entropy(
        model.logits(model.features(tokens, starts=starts)).flatten(0, 1), batch.targets.flatten()
    )
    torch.testing.assert_close(with_borders, expected)
    assert abs(with_borders - without) > 1e-4
