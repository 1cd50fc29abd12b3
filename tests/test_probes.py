"""Probes: maps that make the branches' real outputs, sums that close, files that repeat."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import TINY
from examples import experiment, model_config
from torch import Tensor
from torch.nn.functional import silu

from hymba_lab.config import Config, from_resolved, load_config
from hymba_lab.cost import measure_costs
from hymba_lab.data.source import build_sources
from hymba_lab.errors import StoreError, UserError
from hymba_lab.model import LanguageModel, build_model
from hymba_lab.probes.__main__ import main
from hymba_lab.probes.branches import output_sizes, removals, scales, silenced
from hymba_lab.probes.maps import (
    CATEGORIES,
    attention_map,
    receptive_field,
    scan_map,
    summaries,
)
from hymba_lab.probes.measure import COLUMNS
from hymba_lab.probes.needle import DEPTHS, TIMES, needle_lines
from hymba_lab.probes.trace import AttentionSeen, LayerSeen, branches, watch
from hymba_lab.runs.folder import RunFolder, run_identity
from hymba_lab.runs.record import record_of, run_facts
from hymba_lab.training.fit import fit

VOCAB, N_META = 13, 3
META = {"name": "learned", "n_meta": N_META}
WINDOWS = {
    "n_layers": 5,
    "meta_tokens": META,
    "placement": {"name": "first_middle_last", "window": 4},
    "kv_sharing": {"name": "adjacent"},
}
SHAPES: dict[str, dict[str, Any]] = {
    "parallel": {},
    "windows, shared keys, meta tokens": WINDOWS,
    "layers in turn": {"order": {"name": "sequential"}, "meta_tokens": META},
    "attention only": {"heads": {"name": "attention_only", "n_heads": 4, "d_head": 4}},
    "SSM only": {"heads": {"name": "ssm_only"}, "meta_tokens": META},
}
META_TINY = "meta_tokens: {name: learned, n_meta: 2}"
FUSIONS = ["mean", "concat", "sum", "difference", "gate"]


def model_of(**model: Any) -> LanguageModel:
    torch.manual_seed(0)
    made = build_model(model_config(**model), VOCAB)
    with torch.no_grad():  # away from the start, where maps are nearly uniform
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return made.double().eval()


def on(data: dict[str, Any], **model: Any) -> Config:
    """A tiny experiment on other data, 16 tokens long."""
    resolved = experiment(**model).resolved()
    training = {**resolved["training"], "seq_len": 16, "tokens": 4096}
    return from_resolved({**resolved, "data": data, "training": training})


def some_tokens(n_tokens: int = 11) -> Tensor:
    return torch.randint(0, VOCAB, (2, n_tokens), generator=torch.Generator().manual_seed(1))


def random_map(n_heads: int, n_tokens: int, n_meta: int = 0) -> Tensor:
    """A causal map (1, h, T, T) of text behind meta tokens, its rows summing to 1."""
    scores = torch.rand(1, n_heads, n_tokens, n_tokens, dtype=torch.float64)
    hidden = ~torch.ones(n_tokens, n_tokens, dtype=torch.bool).tril()
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)


def as_attention(maps: Tensor, n_meta: int) -> LayerSeen:
    """A layer whose attention has these maps: logarithms as queries, keys that pick one each."""
    n_tokens = maps.shape[-1]
    q = maps.clamp_min(1e-300).log() * n_tokens**0.5
    k = torch.eye(n_tokens, dtype=maps.dtype).expand(1, maps.shape[1], -1, -1)
    return LayerSeen(attention=AttentionSeen(q, k, k, None, n_meta))


# --- the maps are those that the model computes with


@pytest.mark.parametrize("shape", SHAPES)
def test_a_map_times_the_values_is_the_attention_branch(shape: str) -> None:
    layers = watch(model_of(**SHAPES[shape]), some_tokens())
    found = [layer for layer in layers if layer.attention]
    assert bool(found) == (shape != "SSM only")
    for layer in found:
        seen = layer.attention
        assert seen is not None
        v = seen.v.repeat_interleave(seen.q.shape[1] // seen.v.shape[1], dim=1)
        made = (attention_map(seen) @ v).transpose(1, 2).flatten(2)
        torch.testing.assert_close(made, layer.outputs["attention"])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_implicit_map_times_the_input_is_the_ssm_branch(shape: str) -> None:
    layers = watch(model_of(**SHAPES[shape]), some_tokens())
    found = [layer for layer in layers if layer.ssm]
    assert bool(found) == (shape != "attention only")
    for layer in found:
        seen = layer.ssm
        assert seen is not None
        mixed = torch.einsum("bdts,bsd->btd", scan_map(seen), seen.u)
        made = (mixed + seen.D * seen.u) * silu(seen.z)
        torch.testing.assert_close(made, layer.outputs["ssm"])


@pytest.mark.parametrize("shape", SHAPES)
def test_watching_changes_nothing(shape: str) -> None:
    model, tokens = model_of(**SHAPES[shape]), some_tokens()
    before = model(tokens)
    layers = watch(model, tokens)
    last = layers[-1].outputs.values()
    assert all(
        output.shape[1] == tokens.shape[1] + (model.meta is not None) * N_META for output in last
    )
    assert torch.equal(model(tokens), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_some_channels_are_those_of_the_whole_map() -> None:
    (layer, *_) = watch(model_of(), some_tokens())
    assert layer.ssm is not None
    assert torch.equal(scan_map(layer.ssm, slice(3, 7)), scan_map(layer.ssm)[:, 3:7])


# --- what is read off them


@pytest.mark.parametrize("shape", SHAPES)
def test_shares_sum_to_one_and_entropy_is_below_uniform(shape: str) -> None:
    model = model_of(**SHAPES[shape])
    n_meta = N_META if model.meta else 0
    for layer in watch(model, some_tokens()):
        found = summaries(layer, n_meta)
        assert set(found) == set(layer.outputs)
        for branch, summary in found.items():
            assert len(summary.shares) == (
                layer.attention.q.shape[1] if branch == "attention" else 1
            )
            torch.testing.assert_close(
                summary.shares.sum(1), torch.ones(len(summary.shares)).double()
            )
            torch.testing.assert_close(summary.on_meta.sum(), summary.shares[:, 0].mean())
            assert (summary.shares >= -1e-12).all()
            assert (summary.entropy < summary.uniform).all()
            assert 0 < summary.distance < some_tokens().shape[1]
            assert bool(summary.shares[:, 0].any()) == bool(n_meta)


@pytest.mark.parametrize("n_meta", [0, 2])
def test_categories_of_a_map_cell_by_cell(n_meta: int) -> None:
    n_tokens = 7
    maps = random_map(3, n_tokens, n_meta)
    summary = summaries(as_attention(maps, n_meta), n_meta)["attention"]
    for head in range(3):
        expected = dict.fromkeys(CATEGORIES, 0.0)
        for query in range(n_meta, n_tokens):
            for key in range(n_tokens):
                if key < n_meta:
                    category = "Meta"
                elif key == n_meta:
                    category = "BOS"
                else:
                    category = "Self" if key == query else "Cross"
                expected[category] += maps[0, head, query, key].item() / (n_tokens - n_meta)
        assert summary.shares[head].tolist() == pytest.approx(list(expected.values())[:-1])


def test_a_uniform_map_has_the_uniform_entropy() -> None:
    maps = torch.ones(6, 6, dtype=torch.float64).tril()
    maps = (maps / maps.sum(-1, keepdim=True)).expand(1, 2, -1, -1)
    summary = summaries(as_attention(maps, 2), 2)["attention"]
    assert summary.entropy.tolist() == pytest.approx([summary.uniform] * 2)
    assert summary.uniform == pytest.approx(torch.tensor([3.0, 4, 5, 6]).log().mean().item())


def test_the_receptive_field_is_the_papers_sum() -> None:
    """ERF = sum_n sum_h sum_s 2 M_n^h(S, s) (S - s) (N - n + 1) / (H N (N + 1)), all from 1."""
    N, H, S = 3, 2, 6
    layers = [random_map(H, S) for _ in range(N)]
    expected = sum(
        2 * layers[n - 1][0, h - 1, S - 1, s - 1].item() * (S - s) * (N - n + 1) / (H * N * (N + 1))
        for n in range(1, N + 1)
        for h in range(1, H + 1)
        for s in range(1, S + 1)
    )
    found = [summaries(as_attention(maps, 0), 0)["attention"].distance for maps in layers]
    assert receptive_field(found) == pytest.approx(expected)


def test_the_farthest_look_is_the_whole_text_and_the_nearest_is_none() -> None:
    assert receptive_field([9.0, 9.0, 9.0]) == pytest.approx(9.0)
    assert receptive_field([0.0]) == 0


# --- branches


@pytest.mark.parametrize("branch", ["attention", "ssm"])
def test_silence_is_a_scale_of_zero(branch: str) -> None:
    tokens = some_tokens()
    silent, scaled = model_of(**WINDOWS), model_of(**WINDOWS)
    part = {(layer, name): module for layer, name, module in branches(silent)}[1, branch]
    norm = {"attention": "norm_attn", "ssm": "norm_ssm"}[branch]
    with torch.no_grad():
        scaled.blocks[1].mixer.fusion.get_submodule(norm).weight.zero_()
    whole = silent(tokens)
    with silenced(part):
        found = silent(tokens)
    assert torch.equal(found, scaled(tokens))
    assert not torch.equal(found, whole)
    assert torch.equal(silent(tokens), whole)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_contribution_is_the_mixer_without_the_other_branch(fusion: str) -> None:
    model, tokens = model_of(fusion={"name": fusion}, meta_tokens=META), some_tokens()
    sizes = {
        (line["layer"], line["branch"]): line["value"]
        for line in output_sizes(model, watch(model, tokens))
        if line["what"] == "contribution"
    }
    kept: list[Tensor] = []
    parts = {(layer, name): module for layer, name, module in branches(model)}
    model.blocks[0].mixer.register_forward_hook(lambda *given: kept.append(given[2][0]))
    for other, branch in (("ssm", "attention"), ("attention", "ssm")):
        with silenced(parts[0, other]), torch.no_grad():
            model(tokens)
        assert sizes[0, branch] == pytest.approx(kept[-1][:, N_META:].square().mean().sqrt().item())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_scales_are_there_where_the_fusion_has_norms(fusion: str) -> None:
    found = list(scales(model_of(fusion={"name": fusion})))
    assert len(found) == (0 if fusion == "sum" else 4)
    assert all(line["value"] > 0 for line in found)


def test_every_branch_is_removed_once_and_the_model_is_whole_again() -> None:
    data = {"recall": {"name": "mqar", "rows": 4, "vocab": 8, "n_pairs": [1], "n_val": 4}}
    config = on(data, order={"name": "sequential"}, n_layers=3)
    mixture = build_sources(config.data, config.training.seq_len)
    torch.manual_seed(0)
    model = build_model(config.model, mixture.vocab).eval()
    found = pd.DataFrame(removals(model, mixture))
    which = set(zip(found["layer"], found["branch"], strict=True))
    assert which == {(0, "ssm"), (1, "attention"), (2, "ssm")}
    assert (found["change"] == found["value"] - found["whole"]).all()
    assert (found["change"] != 0).any()
    again = pd.DataFrame(removals(model, mixture))
    pd.testing.assert_frame_equal(found, again)


# --- needle


class Oracle:
    """Answers with the token after the first place of the last one."""

    def __init__(self, vocab: int) -> None:
        self.vocab = vocab
        self.seen: list[Tensor] = []

    def features(self, tokens: Tensor, starts: Tensor | None = None) -> Tensor:
        self.seen.append(tokens)
        place = (tokens[:, :-1] == tokens[:, -1:]).long().argmax(1, keepdim=True)
        answer = tokens.gather(1, place + 1).expand_as(tokens)
        return torch.nn.functional.one_hot(answer, self.vocab).float()

    def logits(self, features: Tensor) -> Tensor:
        return features


@pytest.mark.parametrize(
    ("data", "keys", "values", "pairs"),
    [
        ({"name": "mqar", "rows": 2, "vocab": 32, "n_pairs": [2]}, (1, 16), (16, 32), 4),
        ({"name": "needle", "rows": 5, "vocab": 16, "n_distractors": 1}, (8, 12), (12, 16), 2),
    ],
)
def test_the_needle_is_asked_in_the_ids_of_the_run(
    data: Any, keys: tuple[int, int], values: tuple[int, int], pairs: int
) -> None:
    before = {"name": "induction", "rows": 1, "vocab": 7}
    config = on({"other": before, "task": data})
    mixture = build_sources(config.data, 16)
    oracle: Any = Oracle(mixture.vocab)
    found = pd.DataFrame(needle_lines(oracle, config, mixture))
    assert (found["value"] == 1).all() and (found["answered"] == 1).all()
    assert set(found["length"]) == {16 * times for times in TIMES}
    assert sorted(set(found["depth"])) == DEPTHS
    assert (found["chance"] == 1 / pairs).all()
    for tokens in oracle.seen:
        ids = tokens - 7  # behind the ids of the other source
        assert (ids[:, -1] >= keys[0]).all() and (ids[:, -1] < keys[1]).all()
        n_values = ((ids >= values[0]) & (ids < values[1])).sum(1)
        assert (n_values == pairs).all()
        assert ids.min() >= 0 and ids.max() < values[1]


class Another(Oracle):
    """Answers with the row's first value, or with its first key."""

    def __init__(self, vocab: int, first: int, stop: int) -> None:
        super().__init__(vocab)
        self.first, self.stop = first, stop

    def features(self, tokens: Tensor, starts: Tensor | None = None) -> Tensor:
        place = ((tokens >= self.first) & (tokens < self.stop)).long().argmax(1, keepdim=True)
        answer = tokens.gather(1, place).expand_as(tokens)
        return torch.nn.functional.one_hot(answer, self.vocab).float()


def test_a_wrong_answer_is_an_answer_where_it_names_a_value_of_the_row() -> None:
    config = on({"task": {"name": "mqar", "rows": 2, "vocab": 32, "n_pairs": [2]}})
    mixture = build_sources(config.data, 16)
    values: Any = Another(mixture.vocab, 16, 32)
    found = pd.DataFrame(needle_lines(values, config, mixture))
    assert (found["answered"] == 1).all()
    assert 0.1 < found["value"].mean() < 0.6  # one pair in four, the needle first at depth 0
    keys: Any = Another(mixture.vocab, 1, 16)
    found = pd.DataFrame(needle_lines(keys, config, mixture))
    assert (found[["value", "answered"]] == 0).all().all()


def test_a_run_without_a_recall_task_of_pairs_is_not_asked() -> None:
    config = experiment()
    mixture = build_sources(config.data, config.training.seq_len)
    assert list(needle_lines(model_of(), config, mixture)) == []


# --- the command


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A root with one run of ten steps, and the run's folder."""
    root = tmp_path_factory.mktemp("root")
    file = root / "tiny.yaml"
    file.write_text(TINY.replace("meta_tokens: {name: none}", META_TINY))
    config = load_config(file)
    mixture = build_sources(config.data, config.training.seq_len)
    folder = RunFolder(root, run_identity(config, 0, mixture.fingerprint))
    result = fit(config, seed=0, folder=folder.path, mixture=mixture)
    costs = measure_costs(config.model, mixture.vocab, config.training.seq_len)
    facts = run_facts(config, mixture.fingerprint, costs)
    resolved = config.resolved()
    folder.finish(record_of(result, config=resolved, facts=facts, seed=0, n_threads=1, mlflow={}))
    return root, folder.path


def sweep_folder(root: Path, run: Path, rows: list[str], **changes: str) -> Path:
    """A sweep's folder in which every row is this run."""
    folder = root / "runs" / "sweeps" / "asked"
    folder.mkdir(parents=True, exist_ok=True)
    identity = json.loads((run / "result.json").read_text())["identity"]
    line = {"seed": 0, "status": "finished", "identity": identity, **changes}
    pd.DataFrame([{"row": row, **line} for row in rows]).to_csv(folder / "runs.csv", index=False)
    return folder


@pytest.mark.slow
def test_a_sweep_becomes_tidy_files_that_repeat(trained: tuple[Path, Path], tmp_path: Path) -> None:
    root, run = trained
    folder = sweep_folder(root, run, ["none", "7"])
    for out in ("one", "two"):
        assert main([str(folder), "--root", str(root), "--out", str(tmp_path / out)]) == 0
    files = sorted((tmp_path / "one" / "asked" / "probes").glob("*.csv"))
    assert [file.stem for file in files] == sorted(COLUMNS)
    told = (files[0].parent / "README.md").read_text()
    assert "Command: python -m hymba_lab.probes runs/sweeps/asked\n" in told, "as below --root"
    for file in files:
        other = tmp_path / "two" / file.relative_to(tmp_path / "one")
        assert file.read_bytes() == other.read_bytes()
        frame = pd.read_csv(file, dtype={"row": str}, keep_default_na=False, na_values=[""])
        assert list(frame) == ["sweep", "row", "seed", *COLUMNS[file.stem]]
        assert list(dict.fromkeys(frame["row"])) == ["none", "7"]
        assert frame["value"].notna().all()
    removal = pd.read_csv(tmp_path / "one/asked/probes/removal.csv")
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    for metric, whole in removal.drop_duplicates("metric").set_index("metric")["whole"].items():
        assert whole == pytest.approx(metrics[str(metric)], rel=1e-5)


def test_a_single_run_stands_for_itself(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = trained
    assert main([str(run), "--out", str(tmp_path)]) == 0
    erf = pd.read_csv(tmp_path / "probes" / "erf.csv")
    assert erf["row"].tolist() == [f"tiny {run.name[:6]}"]
    assert "at scale tiny" in (tmp_path / "probes" / "README.md").read_text()


def test_what_cannot_be_probed_is_said(trained: tuple[Path, Path], tmp_path: Path) -> None:
    root, run = trained
    with pytest.raises(UserError, match="neither a sweep's folder"):
        main([str(tmp_path)])
    failed = sweep_folder(root, run, ["a"], status="failed")
    with pytest.raises(UserError, match="no run of it is finished"):
        main([str(failed), "--root", str(root)])
    gone = sweep_folder(root, run, ["a"], identity="0" * 64)
    with pytest.raises(UserError, match="no weights"):
        main([str(gone), "--root", str(root)])
    (gone / "runs.csv").write_text("row,seed\na,0\n")
    with pytest.raises(UserError, match="not the runs of a sweep"):
        main([str(gone), "--root", str(root)])


def test_other_data_and_unfinished_runs_are_refused(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    _, run = trained
    copy = tmp_path / "runs" / run.name
    copy.mkdir(parents=True)
    (copy / "weights.safetensors").write_bytes((run / "weights.safetensors").read_bytes())
    with pytest.raises(StoreError, match="not finished"):
        main([str(copy), "--out", str(tmp_path)])
    record = json.loads((run / "result.json").read_text())
    (copy / "result.json").write_text(json.dumps({**record, "data_fingerprint": "f" * 64}))
    with pytest.raises(UserError, match="was edited"):
        main([str(copy), "--out", str(tmp_path)])
