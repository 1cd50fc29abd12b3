"""Parameters, FLOPs and kept values of every recurrence against closed forms, written by hand."""

from typing import Any

import pytest
import torch
from examples import model_config
from torch.utils.flop_counter import FlopCounterMode

from hymba_lab.config import all_registries

D, E, T = 24, 48, 13  # d_model, d_inner, tokens
CASES: dict[str, tuple[dict[str, Any], int, int, int]] = {}
"""Name -> options, parameters, FLOPs of T tokens, values kept by one row."""


def linear(*pairs: tuple[int, int]) -> int:
    return sum(a * b for a, b in pairs)


def case(name: str, options: dict[str, Any], maps: int, others: int, rest: int, kept: int) -> None:
    """`maps` weights of linear maps, `others` parameters beside, `rest` FLOPs a token beside."""
    CASES[name] = (options, maps + others, T * (2 * maps + rest), kept)


# N states, P channels of a head, H heads, G groups; a convolution of 4 over C channels is 8 C FLOPs
N, P, G, H, C = 6, 8, 2, 6, E + 2 * 2 * 6
case(
    "mamba2",
    {"d_state": N, "d_head": P, "n_groups": G},
    linear((D, C), (D, E), (D, H)),
    C * 4 + C + 3 * H + E,
    8 * C + 5 * E * N,
    E * N + 3 * C,
)
C = E + 2 * 6  # what comes a token late, by a convolution of 2
case(
    "mamba3",
    {"d_state": N, "d_head": P, "n_groups": G},
    linear((D, E + 2 * 2 * 6), (D, E), (D, H), (D, H), (D, H), (D, 1)),
    2 * H * N + 2 * N + 2 * H,
    4 * C + 5 * E * N,
    E * N + C,
)
K, V, H = 4, 8, 6
C = 2 * H * K + E
case(
    "gated_delta",
    {"d_head": K, "expand_v": 2},
    linear((D, C), (D, E), (D, H), (D, H)),
    C * 4 + 2 * H + V,
    8 * C + 7 * H * K * V,
    H * K * V + 3 * C,
)
C = 2 * (H // 3) * V + E
case(
    "gated_delta shared",
    {"d_head": V, "expand_v": 1, "heads_per_key": 3},
    linear((D, C), (D, E), (D, H), (D, H)),
    C * 4 + 2 * H + V,
    8 * C + 7 * H * V * V,
    H * V * V + 3 * C,
)
R, C = 5, 3 * E
case(
    "kimi_delta",
    {"d_head": V, "gate_rank": R},
    linear((D, C), (D, R), (R, E), (D, R), (R, E), (D, H)),
    C * 4 + H + E + V,
    8 * C + 7 * H * V * V,
    H * V * V + 3 * C,
)
C = 2 * H * K + E
case(
    "gla",
    {"d_head": K, "expand_v": 2, "gate_rank": R},
    linear((D, C), (D, E), (D, R), (R, H * K)),
    H * K + V,
    5 * H * K * V,
    H * K * V,
)


@pytest.mark.parametrize("name", CASES)
def test_costs_of_a_recurrence_by_hand(name: str) -> None:
    options, parameters, flops, kept = CASES[name]
    registry = all_registries()["model.ssm"]
    spec = registry.spec(name.split()[0], **options)
    with torch.device("meta"):
        module = registry.build(spec, D, E)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(torch.empty(1, T, D))
    assert sum(p.numel() for p in module.parameters()) == parameters
    assert counter.get_total_flops() == flops
    assert sum(torch.Size(shape).numel() for shape in module.cache_shapes(99).values()) == kept


def test_every_recurrence_has_its_closed_form() -> None:
    named = {name.split()[0] for name in CASES}
    assert named | {"mamba1"} == set(all_registries()["model.ssm"])  # mamba1: tests/test_cost.py


def test_an_unused_axis_adds_no_module_to_a_model() -> None:
    from hymba_lab.cost import meta_model

    model = meta_model(model_config(), 7)
    names = {name for name, _ in model.named_parameters()}
    later = ("attention.sink", "attention.gate", "_norm.", "convs.", "conv_mixer", "conv_mlp")
    assert not [name for name in names if any(word in name for word in later)]
