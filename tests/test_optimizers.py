"""Muon beside AdamW: which parameter goes where, its step by hand, resuming; rates by size."""

import copy
from typing import Any

import pytest
import torch
from examples import model_config

from hymba_lab.config import load_config
from hymba_lab.errors import ConfigError
from hymba_lab.model import LanguageModel, build_model
from hymba_lab.optim.muon import Several, inner_matrices
from hymba_lab.optim.optimizers import optimizers
from hymba_lab.optim.rates import SizeRule, peak


def model_of(**model: Any) -> LanguageModel:
    torch.manual_seed(0)
    return build_model(model_config(**model), 11)


def train(
    model: LanguageModel, optimizer: torch.optim.Optimizer, steps: int, first: int = 0
) -> None:
    for step in range(first, first + steps):
        tokens = torch.randint(0, 11, (2, 8), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(tokens).square().mean().backward()
        optimizer.step()


def test_every_parameter_has_one_optimizer_and_the_right_one() -> None:
    model = model_of(tie_embeddings=False)
    optimizer = optimizers.build(optimizers.spec("muon"), model)
    inside, outside = (group["params"] for group in optimizer.param_groups)
    assert len(inside) + len(outside) == len(list(model.parameters()))
    names = {id(p): name for name, p in model.named_parameters()}
    told = {names[id(p)] for p in inside}
    assert told == {
        name for name, p in model.named_parameters()
        if p.ndim == 2 and not any(word in name for word in ("embedding", "head", "A_log", "conv"))
    }  # fmt: skip
    assert {id(p) for p in inside} == {id(p) for p in inner_matrices(model)}


def test_one_step_by_hand() -> None:
    """The first step: Newton-Schulz of the gradient in float64, decay beside it."""
    model = model_of()
    optimizer = optimizers.build(optimizers.spec("muon", lr=0.01, adjust="original"), model)
    weight = inner_matrices(model)[0]
    before = weight.detach().double()
    train(model, optimizer, 1)
    assert weight.grad is not None
    X = weight.grad.double()
    tall = X.shape[0] > X.shape[1]
    X = (X.T if tall else X) / X.norm()
    for _ in range(5):
        A = X @ X.T
        X = 3.4445 * X + (-4.775 * A + 2.0315 * A @ A) @ X
    update = (X.T if tall else X) * max(1, weight.shape[0] / weight.shape[1]) ** 0.5
    found = (before * (1 - 0.01 * 0.1) - weight.double()) / 0.01
    # torch takes the steps in bfloat16, which the smallest directions feel most
    alike = (found * update).sum() / (found.norm() * update.norm())
    assert alike > 0.98 and abs(found.norm() / update.norm() - 1) < 0.05


def test_a_saved_state_goes_on_bit_by_bit() -> None:
    whole = model_of()
    optimizer = optimizers.build(optimizers.spec("muon"), whole)
    train(whole, optimizer, 2)
    half, saved = copy.deepcopy(whole), copy.deepcopy(optimizer.state_dict())
    train(whole, optimizer, 3, first=2)
    again = optimizers.build(optimizers.spec("muon"), half)
    again.load_state_dict(saved)
    assert isinstance(again, Several)
    again.param_groups[0]["lr"] = again.param_groups[0]["lr"]  # the schedule's way in
    train(half, again, 3, first=2)
    for own, other in zip(whole.parameters(), half.parameters(), strict=True):
        assert torch.equal(own, other)


def test_a_schedule_reaches_the_parts() -> None:
    model = model_of()
    optimizer = optimizers.build(optimizers.spec("muon", weight_decay=0.0), model)
    before = [p.detach().clone() for p in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(model, optimizer, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_muon_learns() -> None:
    model = model_of()
    optimizer = optimizers.build(optimizers.spec("muon", lr=0.01), model)
    tokens = torch.randint(0, 11, (4, 8))

    def loss() -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())

    first = loss().item()
    for _ in range(20):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.5 * first


def test_the_rate_of_the_size_rule_by_hand() -> None:
    model = model_of(tie_embeddings=False)
    outside = 2 * 11 * 16
    size = sum(p.numel() for p in model.parameters()) - outside
    expected = 2 * 0.5 * 0.0047 * (108e6 / size) ** (1 / 3)
    assert peak(SizeRule(rule="olmo", factor=2.0), model) == pytest.approx(expected)
    assert peak(3e-3, model) == 3e-3
    for name in ("adamw", "muon"):
        spec = optimizers.spec(name, lr=SizeRule(rule="olmo", factor=2.0))
        assert optimizers.build(spec, model).param_groups[0]["lr"] == pytest.approx(expected)


def test_a_rule_in_a_file(tiny: Any) -> None:
    plain = load_config(tiny)
    ruled = load_config(tiny, ["optimizer.lr={rule: olmo}"])
    assert ruled.optimizer.options()["lr"] == SizeRule(rule="olmo")
    assert ruled.digest != plain.digest
    assert load_config(tiny, ["optimizer.lr={rule: olmo}", "optimizer.lr.factor=2.0"])
    with pytest.raises(ConfigError, match="optimizer"):
        load_config(tiny, ["optimizer.lr={rule: mup}"])
