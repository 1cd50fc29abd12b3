"""Probes of the axes that came later: the residual stream, layers in turn, sinks in maps."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from examples import model_config

from hymba_lab.data.source import Batch
from hymba_lab.model import LanguageModel, build_model
from hymba_lab.probes.branches import output_sizes, stream_sizes
from hymba_lab.probes.maps import CATEGORIES, attention_map, summaries
from hymba_lab.probes.measure import samples
from hymba_lab.probes.trace import LayerSeen, watch


def built(**model: object) -> tuple[LanguageModel, torch.Tensor]:
    torch.manual_seed(0)
    return build_model(model_config(**model), 11).eval(), torch.randint(0, 11, (2, 9))


def test_the_largest_activation_behind_each_layer() -> None:
    model, tokens = built()
    lines = list(stream_sizes(watch(model, tokens)))
    with torch.no_grad():
        x = model.embedding(tokens)
        for index, block in enumerate(model.blocks):
            x, _ = block(x)
            own = {line["what"]: line["value"] for line in lines if line["layer"] == index}
            assert own["largest activation"] == x.abs().max().item()
            assert own["largest over median"] == x.abs().max().item() / x.abs().median().item()
    assert {line["branch"] for line in lines} == {"residual"} and len(lines) == 4


def test_what_a_branch_adds_where_the_branches_follow_each_other() -> None:
    model, tokens = built(topology={"name": "s_a_m"})
    layers = watch(model, tokens)
    sizes = {
        (line["layer"], line["branch"]): line["value"]
        for line in output_sizes(model, layers)
        if line["what"] == "contribution"
    }
    mixer = model.blocks[0].mixer
    added = mixer.out_attn(layers[0].outputs["attention"])
    expected = added.double().square().mean().sqrt().item()
    assert abs(sizes[0, "attention"] / expected - 1) < 1e-6 and len(sizes) == 4


def test_a_map_beside_a_sink_leaves_what_the_sink_takes() -> None:
    model, tokens = built(attention={"name": "softmax", "sink": "off_by_one"})
    seen = watch(model, tokens)[0].attention
    assert seen is not None and seen.sink is not None
    group = seen.q.shape[1] // seen.k.shape[1]
    scores = seen.q @ seen.k.repeat_interleave(group, 1).mT * seen.q.shape[3] ** -0.5
    e = scores.exp().tril()
    torch.testing.assert_close(attention_map(seen), e / (1 + e.sum(-1, keepdim=True)))


def test_beside_a_sink_shares_sum_to_one_and_the_entropy_is_of_the_tokens() -> None:
    """A sink that takes half of every row made maps look more concentrated than without it."""
    model, tokens = built(attention={"name": "softmax", "sink": "off_by_one"})
    layer = watch(model, tokens)[0]
    assert layer.attention is not None
    found = summaries(layer, 0)["attention"]
    torch.testing.assert_close(found.shares.sum(1), torch.ones(len(found.shares)))
    assert (found.shares[:, CATEGORIES.index("Sink")] > 0.05).all()
    maps = attention_map(layer.attention)
    over_tokens = maps / maps.sum(-1, keepdim=True)
    expected = torch.special.entr(over_tokens).sum(-1).mean((0, 2))
    torch.testing.assert_close(found.entropy, expected)
    without = summaries(LayerSeen(replace(layer.attention, sink=None)), 0)["attention"]
    torch.testing.assert_close(found.entropy, without.entropy)
    assert without.shares.shape[1] == 4


def test_samples_are_of_all_corpora_and_of_single_documents() -> None:
    """The first batch is of the first corpus; documents of one row do not see each other."""
    starts = torch.zeros(4, 300, dtype=torch.bool)
    starts[0, 290] = starts[1, [100, 200]] = starts[2, 5] = True
    tokens = torch.arange(1200).view(4, 300)
    batches = [Batch(tokens[n : n + 1], tokens[:1], tokens[0, :1], starts[n : n + 1])
               for n in range(4)]  # fmt: skip
    plain = Batch(tokens, tokens, tokens[:, 0])
    mixture: Any = SimpleNamespace(
        sources={"text": None, "recall": None},
        val_batches=lambda: [("text", one) for one in batches] + [("recall", plain)] * 9,
    )
    found = dict(samples(mixture))
    assert found["text"].tolist() == [tokens[n, f : f + 256].tolist()
                                      for n, f in ((0, 0), (2, 5), (3, 0))]  # fmt: skip
    assert found["recall"].shape == (16, 256)
    alone: Any = SimpleNamespace(sources={"text": None}, val_batches=lambda: [("text", batches[1])])
    assert dict(samples(alone))["text"].tolist() == [tokens[1, :100].tolist()]


def test_a_recurrence_of_two_inputs_is_watched_and_has_no_map() -> None:
    model, tokens = built(ssm={"name": "mamba3", "d_head": 4, "d_state": 3})
    layer = watch(model, tokens)[0]
    assert set(layer.recurrences["ssm"]) == {"h"} and layer.ssm is None
    assert set(summaries(layer, 0)) == {"attention"}
