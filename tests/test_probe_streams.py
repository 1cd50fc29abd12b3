"""Probes of the axes that came later: the residual stream, layers in turn, sinks in maps."""

import torch
from examples import model_config

from hymba_lab.model import LanguageModel, build_model
from hymba_lab.probes.branches import output_sizes, stream_sizes
from hymba_lab.probes.maps import attention_map, summaries
from hymba_lab.probes.trace import watch


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


def test_a_recurrence_of_two_inputs_is_watched_and_has_no_map() -> None:
    model, tokens = built(ssm={"name": "mamba3", "d_head": 4, "d_state": 3})
    layer = watch(model, tokens)[0]
    assert set(layer.recurrences["ssm"]) == {"h"} and layer.ssm is None
    assert set(summaries(layer, 0)) == {"attention"}
