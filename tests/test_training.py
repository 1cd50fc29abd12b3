"""Training: what decays, what the loss is, what validation counts, how a run ends and fails."""

import errno
import io
import logging
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from hymba_lab.checkpoints.weights import load_weights
from hymba_lab.config import Config, load_config
from hymba_lab.data.source import IGNORED, Batch, Mixture, build_sources
from hymba_lab.errors import ConfigError, DataError, LeaseLost, StoreError, TrialFailed
from hymba_lab.model import LanguageModel, build_model
from hymba_lab.optim.optimizers import matrices, optimizers, parameter_groups
from hymba_lab.optim.schedules import schedules
from hymba_lab.runs import provenance
from hymba_lab.runs.folder import RunFolder
from hymba_lab.runs.lease import Lease
from hymba_lab.runs.tracking import Store
from hymba_lab.training import module, progress, validation
from hymba_lab.training.fit import FitResult, fit
from hymba_lab.training.parts import TrainParts
from hymba_lab.training.scoring import Scored, batch_loss, scored_features
from hymba_lab.training.single import train
from hymba_lab.training.validation import evaluate

TWO_LABELS = (
    "data={recall: {name: mqar, rows: 4, vocab: 16, n_pairs: [1, 2], n_val: 6}, "
    "copy: {name: selective_copying, rows: 3, n_data: [3], vocab: 8, n_val: 4}}"
)


class Dictated:
    """A source whose batches are given, to know every count by hand."""

    vocab, rows, fingerprint = 11, 2, "dictated"

    def __init__(self, batches: list[Batch], **facts: Any) -> None:
        self.batches = batches
        self.groups: tuple[str, ...] = facts.get("groups", ("all",))
        self.scored = facts.get("scored", "accuracy")
        self.bytes_per_token = facts.get("bytes_per_token")
        self.reference: dict[str, float] = {}

    def train_batch(self, seed: int, step: int) -> Batch:
        return self.batches[step % len(self.batches)]

    def val_batches(self) -> Iterator[Batch]:
        yield from self.batches


def random_batch(n_rows: int, scored: float, n_groups: int, seed: int) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 11, (n_rows, 16), generator=rng)
    targets = torch.randint(0, 11, (n_rows, 16), generator=rng)
    targets[torch.rand(n_rows, 16, generator=rng) > scored] = IGNORED
    return Batch(tokens, targets, torch.randint(0, n_groups, (n_rows,), generator=rng))


def model_of(config: Config, vocab: int = 16) -> LanguageModel:
    torch.manual_seed(0)
    return build_model(config.model, vocab)


# --- the optimizer


@pytest.fixture
def full_model(tiny: Path) -> LanguageModel:
    return model_of(load_config(tiny, ["model.meta_tokens={name: learned, n_meta: 2}"]))


def names(model: nn.Module, parameters: list[Any]) -> set[str]:
    wanted = {id(parameter) for parameter in parameters}
    return {name for name, parameter in model.named_parameters() if id(parameter) in wanted}


def test_only_the_weights_of_linear_maps_decay(full_model: LanguageModel) -> None:
    decayed = names(full_model, matrices(full_model))
    assert all(name.endswith(".weight") for name in decayed)
    kept = {name for name, _ in full_model.named_parameters()} - decayed
    last = {name.rpartition(".")[2] for name in kept}
    assert {"embedding.weight", "meta.tokens"} <= kept
    assert {"A_log", "D", "conv_weight", "conv_bias"} <= last
    two_dimensional = {
        name for name, p in full_model.named_parameters() if p.ndim >= 2 and name in kept
    }
    assert {name.rpartition(".")[2] for name in two_dimensional - {"embedding.weight"}} == {
        "tokens", "A_log", "conv_weight",
    }  # fmt: skip


def test_every_parameter_is_in_one_group(full_model: LanguageModel) -> None:
    groups = parameter_groups(full_model, 0.1)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in full_model.parameters())
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


def test_a_tied_head_does_not_decay_and_an_own_one_does() -> None:
    class Tied(nn.Module):
        def __init__(self, tie: bool) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            if tie:
                self.head.weight = self.embedding.weight

    assert matrices(Tied(tie=True)) == []
    own = Tied(tie=False)
    assert names(own, matrices(own)) == {"head.weight"}


def test_adamw_shrinks_matrices_and_nothing_else(full_model: LanguageModel) -> None:
    spec = optimizers.spec("adamw", lr=0.1, weight_decay=0.5)
    optimizer = optimizers.build(spec, full_model)
    before = {name: p.detach().clone() for name, p in full_model.named_parameters()}
    decayed = names(full_model, matrices(full_model))
    for p in full_model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in full_model.named_parameters():
        torch.testing.assert_close(p, before[name] * (1 - 0.1 * 0.5 if name in decayed else 1))


@pytest.mark.slow
def test_the_schema_needs_no_lightning() -> None:
    code = (
        "import sys, hymba_lab.optim.optimizers, hymba_lab.optim.schedules;"
        "sys.exit('lightning' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- the loss


@pytest.fixture
def two_labels(tiny: Path) -> tuple[LanguageModel, Mixture]:
    config = load_config(tiny, [TWO_LABELS])
    mixture = build_sources(config.data, config.training.seq_len)
    return model_of(config, mixture.vocab), mixture


def direct_loss(model: LanguageModel, mixture: Mixture, batch: Batch) -> torch.Tensor:
    """The loss as its definition reads, from the logits of all positions."""
    logits = model(batch.tokens)
    losses = [
        F.cross_entropy(logits[rows].flatten(0, 1), batch.targets[rows].flatten())
        for rows in mixture.parts.values()
    ]
    return sum(losses, start=torch.zeros(())) / len(losses)


def test_loss_and_gradients_equal_those_of_the_full_logits(
    two_labels: tuple[LanguageModel, Mixture],
) -> None:
    model, mixture = two_labels
    gradients = []
    (part,), whole = next(iter(TrainParts(mixture, 3, range(5, 6))))
    loss, _ = batch_loss(model, *part, whole)
    expected = direct_loss(model, mixture, mixture.train_batch(3, 5))
    for value in (loss, expected):
        model.zero_grad()
        value.backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*gradients)


def test_labels_weigh_the_same_however_much_of_them_is_scored(
    two_labels: tuple[LanguageModel, Mixture],
) -> None:
    model, mixture = two_labels
    ((scored, counts),), whole = next(iter(TrainParts(mixture, 0, range(1))))
    # one or two pairs a row; three data tokens a row
    assert counts == whole == [2 * 1 + 2 * 2, 3 * 3]
    assert len(scored.at) == sum(counts)
    _, each = batch_loss(model, scored, counts, whole)
    alone = F.cross_entropy(model(scored.tokens).flatten(0, 1)[scored.at[6:]], scored.targets[6:])
    torch.testing.assert_close(each[1], alone)


def test_a_batch_without_anything_scored_is_a_data_error(tiny: Path) -> None:
    batch = random_batch(2, 0.0, 1, seed=0)
    mixture = Mixture({"empty": Dictated([batch])})
    with pytest.raises(DataError, match=r"data\.empty: nothing is scored in the batch of step 4"):
        next(iter(TrainParts(mixture, 0, range(4, 5))))


# --- validation


def by_hand(model: LanguageModel, batches: list[Batch], group: int | None) -> tuple[float, float]:
    """Loss and accuracy over all scored positions of a group, position by position."""
    losses, hits = [], []
    for batch in batches:
        logits = model(batch.tokens).detach().double()
        for row, where in (batch.targets != IGNORED).nonzero().tolist():
            if group is None or batch.group[row] == group:
                target = batch.targets[row, where]
                losses.append(-logits[row, where].log_softmax(-1)[target].item())
                hits.append(bool(logits[row, where].argmax() == target))
    return sum(losses) / len(losses), sum(hits) / len(hits)


def test_validation_counts_every_scored_position_once(tiny: Path) -> None:
    model = model_of(load_config(tiny), 11)
    batches = [random_batch(7, 0.9, 3, seed=0), random_batch(2, 0.2, 2, seed=1)]
    source = Dictated(batches, groups=("a", "b", "c", "absent"))
    metrics = evaluate(model, Mixture({"task": source}), torch.device("cpu"))
    loss, accuracy = by_hand(model, batches, None)
    assert metrics["val/task_loss"] == pytest.approx(loss, rel=1e-6)
    assert metrics["val/task_accuracy"] == accuracy
    for group, name in enumerate("abc"):
        assert metrics[f"val/task_accuracy/{name}"] == by_hand(model, batches, group)[1]
    assert "val/task_accuracy/absent" not in metrics  # not measured is missing, not 0


def test_validation_computes_as_few_rows_at_a_time_as_training(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(load_config(tiny), 11)
    source = Dictated(
        [random_batch(7, 0.9, 3, seed=0), random_batch(2, 0.2, 2, seed=1)], groups=tuple("abc")
    )
    mixture, sizes = Mixture({"task": source}), []
    whole = evaluate(model, mixture, torch.device("cpu"))

    def spy(model: LanguageModel, scored: Scored) -> torch.Tensor:
        sizes.append(len(scored.tokens))
        return scored_features(model, scored)

    monkeypatch.setattr(validation, "scored_features", spy)
    assert evaluate(model, mixture, torch.device("cpu"), 3) == pytest.approx(whole, rel=1e-6)
    assert sizes == [3, 3, 1, 2]
    sizes.clear()
    run(tiny, "training.micro_rows=2")
    assert sizes and max(sizes) == 2


def test_validation_holds_as_many_logits_at_a_time_as_training(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """128 rows of 2,048 tokens and 32,001 words are 84 GB of logits at once."""
    model = model_of(load_config(tiny), 11)
    mixture = Mixture({"task": Dictated([random_batch(7, 0.9, 3, seed=0)], groups=tuple("abc"))})
    whole, sizes = evaluate(model, mixture, torch.device("cpu")), []
    add = validation.Tally.add

    def counted(tally: validation.Tally, logits: torch.Tensor, *more: torch.Tensor) -> None:
        sizes.append(len(logits))
        add(tally, logits, *more)

    monkeypatch.setattr(validation.Tally, "add", counted)
    monkeypatch.setattr(validation, "rows_at_once", lambda vocab, device: 10)
    assert evaluate(model, mixture, torch.device("cpu")) == pytest.approx(whole, rel=1e-6)
    assert len(sizes) > 3 and set(sizes[:-1]) == {10}


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_every_rank_validates_as_many_parts(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "world", lambda: SimpleNamespace(rank=rank, n_ranks=3))
    batch = random_batch(7, 1.0, 1, seed=0)
    parts = list(validation._of_this_rank(batch, 2))
    assert len(parts) == 2  # of rows 0 3 6, 1 4, 2 5
    scored = [int((part.targets != IGNORED).sum()) // batch.tokens.shape[1] for part in parts]
    assert scored == [2, 1 if rank == 0 else 0]


def test_text_reports_bits_per_byte_and_no_accuracy(tiny: Path) -> None:
    model = model_of(load_config(tiny), 22)
    text = Dictated([random_batch(3, 1.0, 1, seed=0)], scored="loss", bytes_per_token=2.5)
    task = Dictated([random_batch(3, 0.3, 1, seed=1)])
    metrics = evaluate(model, Mixture({"text": text, "task": task}), torch.device("cpu"))
    loss = metrics["val/text_loss"]
    assert metrics["val/text_bits_per_byte"] == pytest.approx(loss / math.log(2) / 2.5)
    assert metrics["val/loss"] == pytest.approx((loss + metrics["val/task_loss"]) / 2)
    assert set(metrics) == {
        "val/loss", "val/text_loss", "val/text_bits_per_byte",
        "val/task_loss", "val/task_accuracy", "val/task_accuracy/all",
    }  # fmt: skip


def test_an_unscored_validation_set_is_a_data_error(tiny: Path) -> None:
    source = Dictated([random_batch(2, 0.0, 1, seed=0)])
    with pytest.raises(DataError, match=r"data\.task: the validation set scores no position"):
        evaluate(model_of(load_config(tiny), 11), Mixture({"task": source}), torch.device("cpu"))


# --- a run


class Recorder(list[tuple[int, dict[str, float]]]):
    """A log that keeps what it is given."""

    def __call__(self, metrics: dict[str, float], step: int) -> None:
        self.append((step, metrics))

    def steps(self, name: str) -> list[int]:
        return [step for step, metrics in self if name in metrics]


def run(tiny: Path, *overrides: str, **arguments: Any) -> FitResult:
    return fit(load_config(tiny, overrides), seed=1, folder=tiny.parent / "run", **arguments)


def test_a_run_reports_what_it_did(tiny: Path) -> None:
    log = Recorder()
    result = run(tiny, TWO_LABELS, "training.val_every=4", "training.tokens=1232", log=log)
    assert (result.n_steps, result.stopped, result.resumed_from) == (11, False, 0)
    assert result.tokens == 11 * (4 + 3) * 16
    assert [step for step, _ in result.history] == [4, 8, 11]  # every 4 and always at the end
    last = result.history[-1][1]
    assert {name: result.metrics[name] for name in last} == last
    steps = np.diff([0, *(step for step, _ in result.history)])
    values = [metrics["val/recall_accuracy"] for _, metrics in result.history]
    assert result.metrics["val/recall_accuracy_auc"] == pytest.approx(
        np.average(values, weights=steps)
    )
    assert result.seconds > 0
    assert result.tokens_per_second > result.tokens / result.seconds / 2
    assert log.steps("val/loss") == [4, 8, 11]
    assert log.steps("train/loss") == [10, 11]  # log_every is 10
    assert set(log[2][1]) == {
        "train/loss", "train/recall_loss", "train/copy_loss", "train/lr", "train/grad_norm",
    }  # fmt: skip


def test_steps_are_made_with_the_scheduled_rate(tiny: Path) -> None:
    log = Recorder()
    run(tiny, "training.log_every=1", "schedule.warmup=0.3", log=log)
    factor = schedules.build(schedules.spec("wsd", warmup=0.3), 10, 3e-3)
    rates = [metrics["train/lr"] for _, metrics in log if "train/lr" in metrics]
    assert rates == pytest.approx([3e-3 * factor(step) for step in range(10)], rel=1e-12)


def gradient(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """All gradients that a step is made with, as one vector."""
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    return torch.cat([p.grad.flatten() for p in trained if p.grad is not None])


@pytest.mark.parametrize("bound", [None, 0.01, 100.0])
def test_a_step_is_made_with_clipped_gradients(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, bound: float | None
) -> None:
    """Shorter where they were longer than the bound, never turned; reported is the norm before."""
    before: list[torch.Tensor] = []
    after: list[torch.Tensor] = []
    clip = module.LitLanguageModel.configure_gradient_clipping

    def spy(lit: Any, optimizer: torch.optim.Optimizer, **options: Any) -> None:
        before.append(gradient(optimizer))
        clip(lit, optimizer, **options)

    def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        after.append(gradient(optimizer))

    monkeypatch.setattr(module.LitLanguageModel, "configure_gradient_clipping", spy)
    log = Recorder()
    asked = "null" if bound is None else bound
    with register_optimizer_step_post_hook(after_step):
        run(tiny, "training.log_every=1", f"training.grad_clip={asked}", log=log)
    norms = [float(given.norm()) for given in before]
    assert len(norms) == 10 and min(norms) > 0.1 and max(norms) < 100
    for given, used, norm in zip(before, after, norms, strict=True):
        shorter = 1.0 if bound is None else min(1.0, bound / norm)
        torch.testing.assert_close(used, shorter * given, rtol=1e-4, atol=0.0)
    reported = [metrics["train/grad_norm"] for _, metrics in log if "train/grad_norm" in metrics]
    assert reported == pytest.approx(norms)


def test_the_weights_written_are_those_that_were_measured(tiny: Path) -> None:
    result = run(tiny)
    folder, config = tiny.parent / "run", load_config(tiny)
    assert os.listdir(folder) == ["weights.safetensors"]
    weights, facts = load_weights(folder / "weights.safetensors")
    assert facts["config"] == config.resolved()
    assert facts["n_steps"] == 10
    model = build_model(config.model, facts["vocab"])
    model.load_state_dict(weights)
    mixture = build_sources(config.data, config.training.seq_len)
    assert evaluate(model.eval(), mixture, torch.device("cpu")) == result.history[-1][1]


@pytest.mark.slow
def test_learns_to_copy(tiny: Path) -> None:
    data = "data={copy: {name: selective_copying, rows: 16, n_data: [1], vocab: 6, n_val: 64}}"
    result = run(
        tiny, data, "training.tokens=30720", "training.val_every=40", "optimizer.lr=0.01",
        "model.n_layers=1",
    )  # fmt: skip
    losses = [metrics["val/copy_loss"] for _, metrics in result.history]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * math.log(4)  # an uninformed predictor has log 4
    assert result.metrics["val/copy_accuracy"] > 0.75


def test_the_caller_can_stop_a_run(tiny: Path) -> None:
    asked = []

    def stop(step: int, metrics: dict[str, float]) -> bool:
        asked.append((step, metrics))
        return step >= 4

    result = run(tiny, "training.val_every=2", stop=stop)
    assert (result.stopped, result.n_steps) == (True, 4)
    assert result.history == asked
    assert [step for step, _ in asked] == [2, 4]


def test_a_run_that_reached_its_end_was_not_stopped(tiny: Path) -> None:
    assert not run(tiny, stop=lambda step, metrics: step == 10).stopped


def test_the_model_is_validated_in_evaluation_mode(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    def spy(model: LanguageModel, *arguments: Any) -> dict[str, float]:
        modes.append(model.training)
        return evaluate(model, *arguments)

    monkeypatch.setattr(module, "evaluate", spy)
    run(tiny)
    assert modes == [False, False]


def histories(tiny: Path, *seeds: int, sources: Mixture | None = None) -> list[Any]:
    config, folders = load_config(tiny), (tiny.parent / f"run {n}" for n in range(len(seeds)))
    return [
        fit(config, seed=seed, folder=folder, mixture=sources).history
        for seed, folder in zip(seeds, folders, strict=True)
    ]


def test_a_seed_is_a_run(tiny: Path) -> None:
    first, again = histories(tiny, 1, 1)
    assert first == again


def test_a_seed_draws_the_weights(tiny: Path) -> None:
    """Of batches that are the same for every seed: nothing but the weights makes the difference."""
    given = Dictated([random_batch(2, 0.5, 1, seed=0)])
    first, other = histories(tiny, 1, 2, sources=Mixture({"given": given}))
    assert first != other


def test_a_seed_draws_the_batches(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of weights that are the same for every seed: nothing but the batches makes the difference."""
    monkeypatch.setattr(
        "hymba_lab.training.fit.build_model", lambda _, vocab: model_of(load_config(tiny), vocab)
    )
    first, other = histories(tiny, 1, 2)
    assert first != other


def test_bf16_is_close_to_fp32_and_not_the_same(tiny: Path) -> None:
    losses = [
        run(tiny, f"training.precision={precision}").metrics["val/loss"]
        for precision in ("fp32", "bf16-mixed")
    ]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


# --- what goes wrong


def test_a_budget_below_one_step_is_refused_with_the_numbers(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"63 tokens.*4 rows \* 16 tokens = 64") as caught:
        run(tiny, "training.tokens=63")
    assert caught.value.path == "training.tokens"


def test_a_vocabulary_too_small_for_the_data_is_refused(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="the model has 8 ids, the data of all sources needs 16"):
        run(tiny, "model.vocab=8")


@pytest.mark.parametrize("tokens", ["training.tokens=640", "training.tokens=64"])
def test_divergence_is_a_failure_with_its_step_and_rate(tiny: Path, tokens: str) -> None:
    """In ten steps the gradient tells, in one step only the validation can."""
    with pytest.raises(
        TrialFailed, match=r"step \d+ of \d+: .*learning rate 1e\+30; try a lower"
    ) as caught:
        run(tiny, tokens, "optimizer.lr=1.0e+30", "schedule={name: constant}")
    assert caught.value.reason == "nan"


class Broken(Dictated):
    """A source whose third batch raises."""

    def __init__(self, cause: Any) -> None:
        super().__init__([random_batch(2, 0.5, 1, seed=0)])
        self.cause = cause

    def train_batch(self, seed: int, step: int) -> Batch:
        if step == 2:
            self.cause()
        return super().train_batch(seed, step)


def raise_(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "cause",
    [
        lambda: torch.empty(2**60),
        lambda: raise_(MemoryError()),
        lambda: raise_(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
    ],
)
def test_running_out_of_memory_is_a_failure_that_says_what_to_shrink(
    tiny: Path, cause: Any
) -> None:
    with pytest.raises(
        TrialFailed, match=r"now data\.recall\.rows 4, training\.seq_len 16"
    ) as caught:
        run(tiny, mixture=Mixture({"recall": Broken(cause)}))
    assert caught.value.reason == "out_of_memory"


def test_other_errors_pass_as_they_are(tiny: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^shapes do not fit$"):
        run(tiny, mixture=Mixture({"x": Broken(lambda: raise_(RuntimeError("shapes do not fit")))}))


@pytest.fixture
def ctrl_c() -> Iterator[Any]:
    """Python's own handler: a process that a shell starts in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


@pytest.mark.filterwarnings("ignore:.*KeyboardInterrupt")
def test_ctrl_c_arrives_and_still_works_afterwards(tiny: Path, ctrl_c: Any) -> None:
    press = Mixture({"x": Broken(lambda: os.kill(os.getpid(), signal.SIGINT))})
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(tiny, mixture=press)
    assert signal.getsignal(signal.SIGINT) is ctrl_c


def test_a_terminated_run_saves_its_step_and_says_so(tiny: Path) -> None:
    press = Mixture({"x": Broken(lambda: os.kill(os.getpid(), signal.SIGTERM))})
    with pytest.raises(SystemExit) as caught:
        run(tiny, "training.val_every=100", mixture=press)
    assert caught.value.code == 143
    kept = run(tiny, "training.val_every=100", mixture=Mixture({"x": Broken(lambda: None)}))
    assert kept.resumed_from in (2, 3)  # a batch may be made one step ahead


def test_a_run_that_is_asked_to_leave_in_its_last_step_leaves(tiny: Path) -> None:
    """A stage that came behind it would be cut off by the end of its job's time."""

    def press(metrics: dict[str, float], step: int) -> None:
        if step == 10 and "train/loss" in metrics:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        run(tiny, "training.log_every=10", log=press)
    assert caught.value.code == 143
    kept = run(tiny, "training.log_every=10")
    assert (kept.resumed_from, kept.n_steps) == (10, 10)


@pytest.mark.slow
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_is_a_failure_and_keeps_the_last_checkpoint(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    real, calls = getattr(os, function), []

    def full(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*arguments)

    monkeypatch.setattr(os, function, full)
    with pytest.raises(
        TrialFailed, match=r"last\.ckpt: cannot be written \(0\.\d MB so far\): No space left"
    ) as caught:
        run(tiny, "training.val_every=2")
    assert caught.value.reason == "disk"
    assert os.listdir(tiny.parent / "run") == ["last.ckpt"]
    monkeypatch.undo()
    assert run(tiny, "training.val_every=2").resumed_from == 2


# --- what one sees


def test_without_a_terminal_there_is_one_line_per_validation(
    tiny: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(tiny, progress=True)
    out, err = capfd.readouterr()
    assert err == ""  # nothing of Lightning's own talk
    first, last = out.splitlines()
    assert first.startswith("step 5/10, loss 2.")
    assert first.endswith(" s left")
    assert "val/loss" in last
    assert last.endswith("tokens/s")


def test_on_a_terminal_there_is_one_line_that_moves(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "plain_console", lambda: console)
    run(tiny, progress=True)
    assert "step 10/10" in screen.getvalue()
    assert screen.getvalue().count("\n") == 1


def test_silent_by_default(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    records: list[logging.LogRecord] = []
    handler, logger = logging.Handler(), logging.getLogger("lightning.pytorch")
    handler.emit = records.append  # type: ignore[method-assign]
    logger.addHandler(handler)
    level = logger.level
    run(tiny)
    logger.removeHandler(handler)
    assert [record.getMessage() for record in records] == []
    assert capfd.readouterr() == ("", "")
    assert logger.level == level  # another program's Trainer may talk again


@pytest.mark.slow
def test_the_checkpoint_stays_until_the_result_stands(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "finish", cut)
        with pytest.raises(KeyboardInterrupt):
            train(tiny, root=tiny.parent)
    (checkpoint,) = (tiny.parent / "runs").glob("*/last.ckpt")
    done = train(tiny, root=tiny.parent)
    assert math.isnan(done.record["tokens_per_second"]), "no step was made again"
    assert not checkpoint.exists()


def test_a_run_that_was_taken_over_meanwhile_ends_in_one_sentence(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any) -> None:
        raise LeaseLost("runs/x: another process has taken this run over.")

    monkeypatch.setattr(Lease, "require", lost)
    with pytest.raises(StoreError, match=r"taken this run over\. What came after that here"):
        train(tiny, root=tiny.parent)
    assert not list((tiny.parent / "runs").glob("*/result.json"))


@pytest.mark.parametrize("uri", ["http://server:abc", "http://[::1]:abc"])
def test_a_server_of_no_port_is_one_sentence(uri: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="--tracking-uri"):
        Store(uri, tmp_path)


def test_a_record_names_the_gpu_that_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.computed_on() == provenance.hardware()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert provenance.computed_on() == f"NVIDIA H200, {provenance.hardware()}"
