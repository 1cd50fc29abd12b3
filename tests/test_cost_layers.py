"""Equal layers are built once, and every cost is that of all layers, built one by one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY

from hymba_lab.config import ModelConfig, load_config
from hymba_lab.cost import many, measure_costs
from hymba_lab.cost.activations import activation_bytes
from hymba_lab.cost.cache import cache_elements, held_bytes, paper_bytes, released_bytes
from hymba_lab.cost.flops import decoding_flops, forward_flops
from hymba_lab.cost.layers import folded_model, kinds_of
from hymba_lab.cost.many import Meter
from hymba_lab.cost.model import count, meta_model, params_by_part
from hymba_lab.cost.report import layer_rows, report
from hymba_lab.cost.totals import paper_ratio, ssm_to_attention
from hymba_lab.model.plan import plan_layers

DEEP = {
    "one kind": ["model.n_layers=40"],
    "windows": [
        "model.n_layers=31",
        "model.placement={name: first_middle_last, window: 5}",
        "model.meta_tokens={name: learned, n_meta: 3}",
    ],
    "shared": [
        "model.n_layers=45",
        "model.placement={name: first_middle_last, window: 5}",
        "model.kv_sharing={name: adjacent, size: 2}",
    ],
    "every fourth full, shared by three": [
        "model.n_layers=64",
        "model.placement={name: every, window: 7, period: 4}",
        "model.kv_sharing={name: adjacent, size: 3}",
    ],
    "other parts in some layers": [
        "model.n_layers=30",
        "model.layers=[{at: [3, 7], mlp: {name: swiglu, d_ff: 40}}, {at: [7], mlp: {name: none}}]",
    ],
    "sequential": ["model.n_layers=40", "model.order={name: sequential}"],
}


@pytest.fixture(params=DEEP.values(), ids=DEEP)
def config(request: pytest.FixtureRequest, tiny: Path) -> Any:
    return load_config(tiny, request.param)


@pytest.mark.slow
def test_costs_of_kinds_are_costs_of_layers(config: Any) -> None:
    model, vocab = config.model, 16
    whole = meta_model(model, vocab)
    assert len(set(kinds_of(whole.plan, model))) < len(whole.plan)
    costs = measure_costs(model, vocab, 16)
    assert costs.params == count(whole)
    assert costs.flops_per_token == sum(forward_flops(whole, 16).values()) / 16
    assert costs.cache_bytes == 2 * cache_elements(whole, 8000)
    assert costs.ssm_to_attention == pytest.approx(ssm_to_attention(whole), nan_ok=True)
    found = report(config, vocab, context=20, dtype="fp16")
    assert found.params == params_by_part(whole)
    assert found.forward_flops == {k: n / 16 for k, n in forward_flops(whole, 16).items()}
    assert found.decoding_flops == decoding_flops(whole, 20)
    assert found.layers == layer_rows(whole, 20)
    assert found.cache_paper == pytest.approx(paper_bytes(model, whole, 8000))
    assert found.cache_released == released_bytes(model, whole, 8000)
    assert found.ssm_to_attention_paper == pytest.approx(paper_ratio(whole), nan_ok=True)
    for name, value in one_by_one(model, vocab).items():
        assert getattr(found, name) == value, name


def one_by_one(model: ModelConfig, vocab: int) -> dict[str, int]:
    """The figures that build models of their own, with every layer a kind of its own."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hymba_lab.cost.layers.kinds_of", lambda plan, _: list(range(len(plan))))
        return {
            "cache_held": held_bytes(model, vocab, 20, torch.float16),
            "activations_per_row": activation_bytes(model, vocab, 16, "fp32"),
        }


@pytest.mark.slow
def test_a_thousand_layers_are_built_as_their_kinds(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []
    import hymba_lab.model.language_model as module

    build: Callable[..., Any] = module.build_block

    def counted(*facts: Any) -> Any:
        built.append(1)
        return build(*facts)

    monkeypatch.setattr(module, "build_block", counted)
    tiny.write_text(TINY.replace("n_layers: 2", "n_layers: 1000"))
    config = load_config(tiny, ["model.placement={name: first_middle_last, window: 5}"])
    assert report(config, 16, context=8000, dtype="fp16").layers[-1]["layer"] == 999
    assert len(built) < 60
    assert len(folded_model(config.model, 16).plan) == len(plan_layers(config.model)) == 1000


OPTIONS = [
    ["model.d_model=32"], ["model.n_layers=3"], ["model.tie_embeddings=false"], ["model.vocab=64"],
    ["model.meta_tokens={name: learned, n_meta: 3}"], ["model.norm_eps=1e-5"],
    ["model.fusion={name: concat}"], ["model.mlp={name: none}"], ["training.seq_len=8"],
    ["model.attention={name: softmax, value_residual: true}"], ["model.topology={name: s_a_m}"],
    ["model.heads={name: attention_only, n_heads: 2, n_kv_heads: 1, d_head: 8}"],
    ["model.placement={name: every, window: 7, period: 2}", "model.n_layers=4"],
    ["model.kv_sharing={name: adjacent, size: 2}"], ["model.order={name: sequential}"],
]  # fmt: skip


@pytest.mark.slow
def test_one_meter_measures_what_a_new_one_would_of_every_model(tiny: Path) -> None:
    """Whatever was measured before: nothing that a layer costs is taken from another kind's."""
    meter = Meter(16)
    for options in [*DEEP.values(), *OPTIONS, *reversed(OPTIONS)]:
        config = load_config(tiny, options)
        alone = measure_costs(config.model, 16, config.training.seq_len)
        assert repr(meter.costs(config)) == repr(alone), options
        assert meter.params(config.model) == alone.params


def test_layers_known_from_other_models_are_built_no_more(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models grow as the product of the choices, what is built as their sum."""
    n_built = [0]

    def counted(*words: Any) -> Any:
        n_built[0] += 1
        return meta_model(*words)

    monkeypatch.setattr(many, "meta_model", counted)
    meter = Meter(16)
    for n_layers in range(1, 6):
        for window in (3, 5):
            for rate in (0.001, 0.01):
                meter.costs(load_config(tiny, [
                    f"model.n_layers={n_layers}", f"optimizer.lr={rate}",
                    f"model.placement={{name: first_middle_last, window: {window}}}",
                ]))  # fmt: skip
    assert n_built == [1 + 3]  # without layers; full and two windows
