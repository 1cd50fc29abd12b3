"""The laws of what is no module: plans of a model, data sources, optimizers and schedules."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hymba_lab.components.heads import AttentionHeads, HeadPlan
from hymba_lab.data.source import IGNORED, Batch
from hymba_lab.errors import ConfigError, DataError
from hymba_lab.model.plan_checks import (
    check_kv_sharing,
    check_order,
    check_placement,
    check_topology,
)
from hymba_lab.testing.subjects import Broken, Subject, Widths

SEQ_LEN = 64


def is_a_plan(subject: Subject) -> None:
    """It returns a valid plan for every layer, the same in every call."""
    made, again = _plan(subject), _plan(subject)
    if made != again:
        raise Broken(f"two calls give two plans: {made!r} and {again!r}")
    try:
        _PLANS[subject.path](made, subject.widths)
    except ConfigError as error:
        raise Broken(error.args[0]) from None


def _plan(subject: Subject) -> Any:
    if subject.path == "model.heads":
        return subject.build(subject.widths.d_model)
    if subject.path == "model.kv_sharing":
        return subject.build(list(subject.widths.windows))
    if subject.path == "model.topology":
        return subject.build()
    return subject.build(subject.widths.n_layers)


def _heads(made: Any, widths: Widths) -> None:
    if not isinstance(made, HeadPlan):
        raise Broken(f"it returned {type(made).__name__}, not a HeadPlan")
    attention = made.attention
    if attention is None and made.d_inner is None:
        raise Broken("a plan without attention and without SSM heads: a mixer needs one of them")
    if isinstance(attention, AttentionHeads) and attention.n_heads % attention.n_kv_heads:
        raise Broken(f"{attention.n_heads} heads are no multiple of {attention.n_kv_heads} of keys")


_PLANS: dict[str, Callable[[Any, Widths], None]] = {
    "model.heads": _heads,
    "model.order": lambda made, widths: check_order(made, widths.n_layers),
    "model.placement": lambda made, widths: check_placement(made, widths.n_layers),
    "model.kv_sharing": lambda made, widths: check_kv_sharing(made, list(widths.windows)),
    "model.topology": lambda made, widths: check_topology(made),
}


def is_a_source(subject: Subject) -> None:
    """A batch is a pure function of (seed, step); ids and targets are of the vocabulary."""
    source, twin = _source(subject), _source(subject)
    first = source.train_batch(3, 7)
    _batch(source, first, source.rows)
    if not _equal(first, twin.train_batch(3, 7)) or not _equal(first, source.train_batch(3, 7)):
        raise Broken("train_batch(3, 7) gives two different batches: resume would train on others")
    if _equal(first, source.train_batch(3, 8)):
        raise Broken("train_batch gives the same batch at steps 7 and 8")
    if _equal(first, source.train_batch(4, 7)):
        raise Broken("train_batch gives the same batch for seeds 3 and 4")
    if source.fingerprint != twin.fingerprint or not source.fingerprint:
        raise Broken("fingerprint differs between two sources of the same options, or is empty")


def validates(subject: Subject) -> None:
    """The validation set is fixed, whole, and names its difficulties."""
    source = _source(subject)
    mine, theirs = list(source.val_batches()), list(_source(subject).val_batches())
    if not mine or len(mine) != len(theirs) or not all(map(_equal, mine, theirs)):
        raise Broken("val_batches is empty or differs from one call to the next")
    for batch in mine:
        _batch(source, batch, len(batch.tokens))
    if source.scored not in ("accuracy", "loss"):
        raise Broken(f"scored is {source.scored!r}; accuracy and loss are allowed")


def _source(subject: Subject) -> Any:
    try:
        return subject.build(SEQ_LEN)
    except DataError as error:
        raise Broken(f"its data is not there: {error} Check an experiment that names it") from None


def _batch(source: Any, batch: Batch, rows: int) -> None:
    shape = (rows, SEQ_LEN)
    for name, tensor in (("tokens", batch.tokens), ("targets", batch.targets)):
        if tuple(tensor.shape) != shape or tensor.dtype != torch.int64:
            raise Broken(f"{name} is {tensor.dtype} {list(tensor.shape)}; int64 {list(shape)}")
    if batch.tokens.min() < 0 or batch.tokens.max() >= source.vocab:
        raise Broken(f"tokens are not ids of 0..{source.vocab - 1}")
    scored = batch.targets[batch.targets != IGNORED]
    if scored.numel() and (scored.min() < 0 or scored.max() >= source.vocab):
        raise Broken(f"targets are neither ids of 0..{source.vocab - 1} nor {IGNORED}")
    if tuple(batch.group.shape) != (rows,) or not (
        int(batch.group.min()) >= 0 and int(batch.group.max()) < len(source.groups)
    ):
        raise Broken(f"group is not an index into groups = {source.groups} for every row")


def _equal(one: Batch, other: Batch) -> bool:
    return torch.equal(one.tokens, other.tokens) and torch.equal(one.targets, other.targets)


def trains(subject: Subject) -> None:
    """One step moves every parameter of a small model downhill."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 8))
    optimizer, x = subject.build(model), torch.randn(64, 8)
    before = [p.detach().clone() for p in model.parameters()]

    def loss() -> Tensor:
        error: Tensor = (model(x) - x).square().mean()
        return error

    first = float(loss().detach())
    for _ in range(20):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    unmoved = [
        name
        for (name, now), then in zip(model.named_parameters(), before, strict=True)
        if torch.equal(now, then)
    ]
    if unmoved:
        raise Broken(f"20 steps leave {unmoved[0]} where it was")
    if not float(loss().detach()) < first:
        raise Broken(f"20 steps take the loss of a linear problem from {first:.3g} up")


def is_a_schedule(subject: Subject) -> None:
    """The factor of every step is a number in [0, 1], and stays past the end what it was there."""
    factor = subject.build(100, 1e-3)
    values = [factor(step) for step in range(100)]
    if wrong := [v for v in values if not (math.isfinite(v) and 0 <= v <= 1)]:
        raise Broken(f"a factor is {wrong[0]}; it must lie in [0, 1]")
    if not max(values) > 0:
        raise Broken("every factor is 0: nothing would be trained")
    if factor(120) != values[-1]:
        raise Broken(f"past its end the factor is {factor(120)}, not the last one, {values[-1]}")
