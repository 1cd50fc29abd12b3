"""A batch in parts: which rows of it are computed where, and that their gradients add up."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import checkpoint

from hymba_lab.checkpoints.weights import load_weights
from hymba_lab.config import load_config
from hymba_lab.data.source import IGNORED, build_sources
from hymba_lab.errors import ConfigError
from hymba_lab.model import LanguageModel
from hymba_lab.training import memory, micro_rows, module
from hymba_lab.training.fit import fit
from hymba_lab.training.micro_rows import doubled, rows_at_a_time
from hymba_lab.training.part_graph import PartGraph
from hymba_lab.training.parts import TrainParts, rows_of_rank

MODEL = """\
name: parts
scale: tiny
model:
  d_model: 16
  n_layers: 4
  heads: {name: hybrid, n_heads: 2, n_kv_heads: 1, d_head: 8, expand: 2}
  order: {name: parallel}
  fusion: {name: mean}
  meta_tokens: {name: learned, n_meta: 4}
  placement: {name: first_middle_last, window: 6}
  kv_sharing: {name: adjacent, size: 2}
  attention: {name: softmax}
  ssm: {name: mamba1, d_state: 4}
  mlp: {name: swiglu, d_ff: 24}
data:
  recall: {name: mqar, rows: 6, vocab: 16, n_pairs: [1, 2], n_val: 7}
  copying: {name: selective_copying, rows: 3, n_data: [4], n_val: 3}
optimizer: {name: adamw, lr: 3.0e-3}
schedule: {name: wsd}
training: {seq_len: 16, tokens: 2880, val_every: 10, log_every: 1, checkpoint_every: 5}
"""


def trained(tmp_path: Path, name: str, *overrides: str) -> dict[str, torch.Tensor]:
    """The weights after twenty steps of nine rows."""
    file = tmp_path / "parts.yaml"
    file.write_text(MODEL)
    config = load_config(file, list(overrides))
    result = fit(config, seed=0, folder=tmp_path / name)
    assert result.n_steps == 20
    return load_weights(tmp_path / name / "weights.safetensors")[0]


def relative_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Relative error of all weights as one vector.

    Of single tensors it can be larger: Adam makes full steps of gradients that are mostly rounding.
    """
    assert found.keys() == expected.keys()
    apart = sum(float((found[name] - expected[name]).square().sum()) for name in expected)
    whole = sum(float(tensor.square().sum()) for tensor in expected.values())
    return float((apart / whole) ** 0.5)


@pytest.mark.slow
def test_parts_train_the_model_that_whole_batches_train(tmp_path: Path) -> None:
    expected = trained(tmp_path, "whole")
    for rows in (1, 2, 5):
        found = trained(tmp_path, f"rows {rows}", f"training.micro_rows={rows}")
        assert 0 < relative_error(found, expected) < 1e-5


@pytest.mark.slow
def test_blocks_computed_again_change_no_bit(tmp_path: Path) -> None:
    expected = trained(tmp_path, "kept")
    found = trained(tmp_path, "again", "training.recompute=true")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("asked", "n_compiled", "n_again"),
    [
        ((), 0, 0),
        (("recompute",), 0, 8),
        (("compile",), 8, 0),
        (("recompute", "compile"), 16, 8),  # the backward goes through what was compiled again
    ],
)
def test_four_blocks_of_two_steps_are_computed_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[str, ...], n_compiled: int,
    n_again: int,
) -> None:  # fmt: skip
    """A setting that is lost on the way changes no weight, only memory and time."""
    calls: Counter[str] = Counter()

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **options: Any) -> Any:
            calls[name] += torch.is_grad_enabled()  # not those of a validation
            return call(*args, **options)

        return counting

    monkeypatch.setattr(torch, "compile", lambda forward, **_: counted("compiled", forward))
    monkeypatch.setattr(checkpoint, "checkpoint", counted("again", checkpoint.checkpoint))
    file = tmp_path / "parts.yaml"
    file.write_text(MODEL)
    changes = ["training.tokens=288", *(f"training.{name}=true" for name in asked)]
    assert fit(load_config(file, changes), seed=0, folder=tmp_path / "run").n_steps == 2
    assert (calls["compiled"], calls["again"]) == (n_compiled, n_again)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Without a GPU a recording is the function itself, on the memory that a graph would have."""
    recorded = []

    def graph(model: LanguageModel) -> PartGraph:
        return PartGraph(model, lambda run: recorded.append(run) or run)  # type: ignore[func-returns-value]

    monkeypatch.setattr(module, "can_capture", lambda device: True)
    monkeypatch.setattr(module, "PartGraph", graph)
    return recorded


@pytest.mark.slow
def test_a_recorded_part_adds_the_gradients_that_it_would_add(
    tmp_path: Path, recorder: list[Callable[[], None]]
) -> None:
    """Of all rows and of three at a time; how many positions are scored changes every step."""
    expected = trained(tmp_path, "whole")
    for rows in (9, 3):
        recorder.clear()
        set_to = ("training.cuda_graph=true", f"training.micro_rows={rows}")
        found = trained(tmp_path, f"recorded {rows}", *set_to)
        assert len(recorder) == 1
        assert relative_error(found, expected) < 1e-5


@pytest.mark.gpu
def test_a_cuda_graph_trains_the_model_that_its_kernels_train_one_by_one(tmp_path: Path) -> None:
    expected = trained(tmp_path, "one by one", "training.micro_rows=3")
    set_to = ("training.micro_rows=3", "training.cuda_graph=true")
    assert relative_error(trained(tmp_path, "graph", *set_to), expected) < 1e-4


@pytest.mark.slow
def test_a_step_of_unequal_parts_is_computed_as_ever(
    tmp_path: Path, recorder: list[Callable[[], None]]
) -> None:
    expected = trained(tmp_path, "ever", "training.micro_rows=2")
    found = trained(tmp_path, "same", "training.cuda_graph=true", "training.micro_rows=2")
    assert not recorder
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.campaign
@pytest.mark.slow
def test_compiled_blocks_train_the_same_model(tmp_path: Path) -> None:
    expected = trained(tmp_path, "eager")
    found = trained(tmp_path, "compiled", "training.compile=true", "training.recompute=true")
    assert relative_error(found, expected) < 1e-4


def test_how_a_step_is_computed_is_no_part_of_what_a_run_is(tmp_path: Path) -> None:
    file = tmp_path / "parts.yaml"
    file.write_text(MODEL)
    ways = ["micro_rows=auto", "recompute=true", "compile=true", "devices=2", "shard=true",
            "shard_checkpoints=true"]  # fmt: skip
    changed = load_config(file, [f"training.{way}" for way in ways])
    assert changed.digest == load_config(file).digest
    assert load_config(file, ["training.precision=bf16-true"]).digest != changed.digest


def mixture(tmp_path: Path):  # type: ignore[no-untyped-def]
    file = tmp_path / "parts.yaml"
    file.write_text(MODEL)
    config = load_config(file)
    return build_sources(config.data, config.training.seq_len)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    n_ranks=st.integers(1, 5),
)
def test_ranks_partition_the_rows(sizes: list[int], n_ranks: int) -> None:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    parts = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    rows = torch.cat([rows_of_rank(parts, rank, n_ranks) for rank in range(n_ranks)])
    assert sorted(rows.tolist()) == list(range(sum(sizes)))


@pytest.mark.parametrize("n_ranks", [1, 2, 4])
@pytest.mark.parametrize("rows", [None, 1, 2, 5])
def test_every_scored_position_of_a_step_is_computed_once(
    tmp_path: Path, n_ranks: int, rows: int | None
) -> None:
    source = mixture(tmp_path)
    batch = source.train_batch(3, 7)
    seen, n_parts = [], set()
    for rank in range(n_ranks):
        steps = TrainParts(source, 3, range(7, 8), rank=rank, n_ranks=n_ranks, micro_rows=rows)
        parts, whole = next(iter(steps))
        n_parts.add(len(parts))
        assert whole == [int((batch.targets[s] != IGNORED).sum()) for s in source.parts.values()]
        for part in parts:
            assert sum(part.counts) == len(part.scored.targets)
            assert len(part.scored.tokens) <= (rows or 9)
            places = zip(part.scored.at.tolist(), part.scored.targets.tolist(), strict=True)
            seen += [(part.scored.tokens[i // 16].tolist(), i % 16, t) for i, t in places]
    assert len(n_parts) == 1  # ranks wait for each other in every part
    expected = [(batch.tokens[r].tolist(), c, int(batch.targets[r, c]))
                for r, c in (batch.targets != IGNORED).nonzero().tolist()]  # fmt: skip
    assert sorted(seen) == sorted(expected)


def test_more_devices_than_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="7 devices share 9 rows"):
        TrainParts(mixture(tmp_path), 0, range(1), rank=0, n_ranks=7)


@pytest.mark.parametrize(("room", "found"), [(0, 1), (1, 1), (2, 2), (5, 4), (8, 8), (11, 11)])
def test_the_probe_doubles_until_rows_no_longer_fit(room: int, found: int) -> None:
    assert doubled(lambda rows: rows <= room, 11) == found


def test_auto_takes_what_the_memory_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "parts.yaml"
    file.write_text(MODEL)
    config = load_config(file, ["training.micro_rows=auto"])
    module = SimpleNamespace(
        config=config, mixture=mixture(tmp_path), device=torch.device("cpu"),
        world=SimpleNamespace(n_ranks=1, n_local=1),
    )  # fmt: skip
    row = micro_rows.activation_bytes(config.model, module.mixture.vocab, 16, "fp32")
    for available, rows in ((4.9 * row, 4), (100 * row, 9), (0, 1)):
        told = available / micro_rows.SHARE
        monkeypatch.setattr(micro_rows, "available_bytes", lambda told=told: told)
        assert rows_at_a_time(module) == rows  # type: ignore[arg-type]


def test_auto_leaves_room_for_the_moments_of_the_first_step() -> None:
    weights = [torch.nn.Parameter(torch.ones(3, 5)), torch.nn.Parameter(torch.ones(7))]
    optimizer = torch.optim.AdamW(weights)
    assert micro_rows.moments_to_come([optimizer]) == 2 * 4 * (15 + 7)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert micro_rows.moments_to_come([optimizer]) == 0


def test_ranks_agree_after_every_try(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One rank has room for more: it stops where another one has to."""
    file = tmp_path / "parts.yaml"
    file.write_text(MODEL)
    module = SimpleNamespace(
        config=load_config(file, ["training.micro_rows=auto"]), mixture=mixture(tmp_path),
        device=torch.device("cpu"), world=SimpleNamespace(n_ranks=1, n_local=1),
    )  # fmt: skip
    asked: list[int] = []

    def least(fits: int) -> int:
        asked.append(fits)
        return min(fits, int(len(asked) < 3))  # the third try does not fit elsewhere

    monkeypatch.setattr(micro_rows, "_fits_on_cpu", lambda module: lambda rows: True)
    monkeypatch.setattr(micro_rows, "least", least)
    assert rows_at_a_time(module) == 4  # type: ignore[arg-type]
    assert asked == [1, 1, 1]


@pytest.mark.parametrize("room", ["alone", "beside another process"])
def test_a_job_has_the_memory_that_it_was_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, room: str
) -> None:
    """A node of 512 GB tells a job of 8 GB that all of it is free."""
    group = tmp_path / "job"
    group.mkdir()
    (group / "memory.max").write_text("max\n" if room == "alone" else "8000000\n")
    (group / "memory.current").write_text("3000000\n")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_of_this_process", lambda: "/job")
    told = SimpleNamespace(available=512e9)
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: told)
    assert memory.available_bytes() == (512e9 if room == "alone" else 5e6)


@pytest.mark.slow
def test_a_try_without_memory_leaves_the_shards_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out inside a backward: later steps gave 4 of 8 parameters a gradient, then 0."""
    expected = trained(tmp_path, "undisturbed", "training.shard=true")
    tried: list[bool] = []

    def failing(lit: module.LitLanguageModel) -> None:
        def out_of_memory(gradient: torch.Tensor) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory.")

        handle = lit.model.blocks[1].mlp.register_forward_hook(
            lambda mlp, inputs, output: output.register_hook(out_of_memory) and None
        )
        parts, counts = next(iter(TrainParts(lit.mixture, lit.seed, range(1))))
        tried.append(micro_rows.computes(lit, parts[0], counts))
        handle.remove()

    monkeypatch.setattr(module, "rows_at_a_time", failing)
    try:
        found = trained(tmp_path, "disturbed", "training.shard=true")
    finally:
        torch.distributed.destroy_process_group()
    assert tried == [False]
    assert all(torch.equal(found[name], expected[name]) for name in expected)
