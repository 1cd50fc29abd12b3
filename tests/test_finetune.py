"""SFT and DPO: the loss falls, each method trains what it says, a killed stage goes on exactly."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_folders import lab_model, load, tiny_folder, tiny_tokenizer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tuning import lines, stage_of, tensors, tuned

from hymba_lab.__main__ import main
from hymba_lab.checkpoints.load import load as load_folder
from hymba_lab.checkpoints.load import longest_text
from hymba_lab.config.tuning import Dora, Lisa, Lora, Sft
from hymba_lab.errors import CheckpointError, StoreError, UserError
from hymba_lab.finetune.callbacks import LayersDrawn
from hymba_lab.finetune.merge import merge
from hymba_lab.finetune.method import linear_names, share_of
from hymba_lab.finetune.place import Place
from hymba_lab.finetune.plan import n_steps
from hymba_lab.finetune.start import Start

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

LORA: dict[str, Any] = {"method": {"name": "lora", "r": 4}}
DORA: dict[str, Any] = {"method": {"name": "dora", "r": 4, "targets": ["x", "dt", "up"]}}
LISA: dict[str, Any] = {"method": {"name": "lisa", "n_layers": 1, "every": 3}}


class Losses:
    """Hears what a stage tells, and interrupts it behind a step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.losses: list[float] = []
        self.lines: list[str] = []
        self._stop_at = stop_at

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if line.startswith("step "):
            step = int(line.split()[1].split("/")[0])
            self.losses.append(float(line.split("loss ")[1].split()[0]))
            if step == self._stop_at:
                raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("sft", {"packing": "bfd"}),
        ("sft", {"packing": "wrapped", "loss_on": "everything"}),
        ("dpo", {"lr": 1e-3}),
    ],
    ids=["bfd", "wrapped", "dpo"],
)
def test_the_loss_falls_and_the_folder_loads(
    kind: str, values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard, out = Losses(), tmp_path / "out"
    stage = stage_of(kind, tmp_path, schedule="constant", max_steps=10, epochs=9.0, **values)
    result = tuned(stage, out, told=heard)
    assert len(heard.losses) == 10
    assert sum(heard.losses[-3:]) < 0.9 * sum(heard.losses[:3])
    assert result["n_steps"] == 10 and not (out / "checkpoints").exists()
    _, codec = load_folder(out, None, texts=True)
    assert codec is not None
    (tmp_path / "asked.txt").write_text("say 3\n")
    words = ["chat", str(out), "--prompts", str(tmp_path / "asked.txt"), "--max-new-tokens", "8"]
    assert main(words) == 0
    assert "say 3" in capsys.readouterr().out


def changed(out: Path, start: Path) -> set[str]:
    before, after = tensors(start), tensors(out)
    return {name for name, weight in after.items() if not torch.equal(weight, before[name])}


@pytest.mark.slow
def test_full_trains_every_tensor(tmp_path: Path) -> None:
    stage = stage_of("sft", tmp_path, max_steps=2)
    tuned(stage, tmp_path / "out")
    assert changed(tmp_path / "out", tmp_path / "model") == set(tensors(tmp_path / "model"))


@pytest.mark.slow
@pytest.mark.parametrize("method", [LORA, DORA], ids=["LoRA", "DoRA"])
def test_adapters_change_their_targets_alone_and_merge(
    method: dict[str, Any], tmp_path: Path
) -> None:
    stage, out = stage_of("sft", tmp_path, max_steps=3, lr=1e-2, **method), tmp_path / "out"
    result = tuned(stage, out)
    assert 0 < result["trained"] < result["params"]
    assert isinstance(stage.method, Lora)
    names = linear_names(load(tmp_path / "model"))
    wanted = names if stage.method.targets == "all" else stage.method.targets
    moved = changed(out, tmp_path / "model")
    assert {name.split(".")[-2] for name in moved} == set(wanted)
    assert moved == {
        name for name in tensors(out)
        if name.endswith(".weight") and name.split(".")[-2] in wanted
    }  # fmt: skip

    from peft import PeftModel

    ids = torch.tensor([[1, 30, 31, 32, 33, 34]])
    beside = PeftModel.from_pretrained(load(tmp_path / "model", dtype="float64"), out / "adapter")
    with torch.no_grad():
        expected = beside.eval().double()(input_ids=ids).logits
        merged = load(out, dtype="float64")(ids).logits  # of weights that were rounded to float32
    assert (merged - expected).abs().max() <= 1e-6 * expected.abs().max()
    merge(out / "adapter", tmp_path / "merged")
    assert changed(tmp_path / "merged", out) == set()


@pytest.mark.slow
def test_lisa_trains_the_blocks_drawn_and_what_is_outside(tmp_path: Path) -> None:
    stage, out = stage_of("sft", tmp_path, max_steps=3, **LISA), tmp_path / "out"
    result = tuned(stage, out)
    blocks = load(out).model.net.blocks
    [drawn] = LayersDrawn(blocks, 1, 3, stage.seed).drawn(0)
    moved = changed(out, tmp_path / "model")
    inside = {name for name in tensors(out) if f".blocks.{drawn}." in name}
    outside = {name for name in tensors(out) if ".blocks." not in name}
    assert moved == inside | outside
    assert result["trained"] < result["params"]


def test_lisa_comes_to_every_block_in_time() -> None:
    draw = LayersDrawn([torch.nn.Linear(1, 1) for _ in range(6)], 2, 5, seed=0)
    seen = {layer for step in range(200) for layer in draw.drawn(step)}
    assert seen == set(range(6))
    assert draw.drawn(0) == draw.drawn(4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("sft", {"packing": "bfd", "max_steps": 7}),
        pytest.param("sft", {"data_val": True, **LORA}, marks=pytest.mark.slow),
        ("sft", {"max_steps": 7, **LISA}),
        pytest.param("dpo", {}, marks=pytest.mark.slow),
        pytest.param("dpo", DORA, marks=pytest.mark.slow),
    ],
    ids=["full", "LoRA", "LISA", "DPO", "DPO-DoRA"],
)
def test_an_interrupted_stage_ends_with_the_same_bits(
    kind: str, values: dict[str, Any], tmp_path: Path
) -> None:
    values = {"max_steps": 6, "epochs": 3.0, "checkpoint_every": 4} | values
    if values.pop("data_val", False):
        values["data"] = {"paths": [str(tmp_path / "chats.jsonl")], "val_fraction": 0.1}
    stage = stage_of(kind, tmp_path, **values)
    tuned(stage, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        tuned(stage, tmp_path / "cut", told=Losses(stop_at=5))
    assert not (tmp_path / "cut" / "config.json").exists()
    heard = Losses()
    result = tuned(stage, tmp_path / "cut", told=heard)
    assert any("goes on from checkpoint-4" in line for line in heard.lines)
    assert changed(tmp_path / "cut", tmp_path / "whole") == set()
    if "data" in values:
        assert result["metrics"]["val/loss"] > 0
    told: list[str] = []
    assert tuned(stage, tmp_path / "cut", told=told.append) == result
    assert told == [f"{tmp_path / 'cut'}: is there already"]


@pytest.mark.slow
@pytest.mark.parametrize("steps", [5, 10], ids=["within an epoch", "at its end"])
def test_a_stage_cut_behind_its_last_step_makes_no_other(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_of("sft", tmp_path, max_steps=steps, epochs=2.0, schedule="constant")
    expected = tuned(stage, tmp_path / "whole")

    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Place, "finish", cut)
        with pytest.raises(KeyboardInterrupt):
            tuned(stage, tmp_path / "cut")
    heard = Losses()
    result = tuned(stage, tmp_path / "cut", told=heard)
    assert any(f"goes on from checkpoint-{steps}" in line for line in heard.lines)
    assert heard.losses == []
    assert changed(tmp_path / "cut", tmp_path / "whole") == set()
    assert result["metrics"]["train/loss"] == expected["metrics"]["train/loss"]


@pytest.mark.slow
@pytest.mark.parametrize("error", [OSError(28, "full"), SafetensorError("(os error 28)")])
def test_a_full_disk_is_said_whoever_meets_it(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_of("sft", tmp_path, max_steps=1)

    def full(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("hymba_lab.finetune.run._save", full)
        with pytest.raises(StoreError, match=r"the model cannot be written: .*; make room"):
            tuned(stage, tmp_path / "out")
    tuned(stage, tmp_path / "out")


def test_weights_of_the_lab_that_are_cut_short_are_said(tmp_path: Path) -> None:
    model = lab_model()
    model.resize_token_embeddings(97)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    os.truncate(tmp_path / "model.safetensors", 1000)
    with pytest.raises(CheckpointError, match="its weights cannot be read"):
        Start(tmp_path).load("fp32")


@pytest.mark.slow
def test_another_adapter_of_the_same_name_is_another_merge(tmp_path: Path) -> None:
    for lr in (1e-2, 2e-2):
        stage = stage_of("sft", tmp_path, max_steps=1, lr=lr, **LORA)
        tuned(stage, tmp_path / f"{lr}")
    shutil.copytree(tmp_path / "0.01/adapter", tmp_path / "adapter")
    assert merge(tmp_path / "adapter", tmp_path / "merged")
    assert not merge(tmp_path / "adapter", tmp_path / "merged")
    shutil.copytree(tmp_path / "0.02/adapter", tmp_path / "adapter", dirs_exist_ok=True)
    with pytest.raises(StoreError, match="it differs in adapter's weights"):
        merge(tmp_path / "adapter", tmp_path / "merged")


@pytest.mark.slow
def test_an_adapter_that_fits_in_part_is_merged_into_nothing(tmp_path: Path) -> None:
    """peft warns of what is missing, and drops what is too much."""
    tuned(stage_of("sft", tmp_path, max_steps=1, **LORA), tmp_path / "out")
    file = tmp_path / "out/adapter/adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"does not fit .*1 weights are in one of them only"):
        merge(tmp_path / "out/adapter", tmp_path / "merged")
    assert not (tmp_path / "merged/model.safetensors").exists()


def test_values_that_are_not_covered_are_said_before_anything_is_read(tmp_path: Path) -> None:
    stage_of("sft", tmp_path, max_steps=1)
    file = next(tmp_path.rglob("config.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_size": "16x"}))
    with pytest.raises(CheckpointError, match=r"config\.json: not covered:\n  hidden_size"):
        Start(file.parent)


@pytest.mark.slow
def test_half_a_surrogate_pair_in_a_text_is_a_question_mark(tmp_path: Path) -> None:
    """JSON can spell it, and scraped text does; it ended in a traceback of the tokenizer."""
    rows = []
    for text in ("\ud83d hi there", "? hi there"):
        (tmp_path / "odd.jsonl").write_text(json.dumps({"text": text}) + "\n")
        stage = stage_of("sft", tmp_path, max_steps=1)
        data = stage.data.model_copy(update={"paths": [str(tmp_path / "odd.jsonl")]})
        stage = stage.model_copy(update={"data": data})
        tuned(stage, tmp_path / f"out{len(rows)}")
        rows.append((tmp_path / f"out{len(rows)}/model.safetensors").read_bytes())
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_folder_is_one_stage_s(tmp_path: Path) -> None:
    stage = stage_of("sft", tmp_path, max_steps=1)
    tuned(stage, tmp_path / "out")
    weights = (tmp_path / "out/model.safetensors").read_bytes()
    other = stage_of("sft", tmp_path, max_steps=1, lr=1e-5)
    with pytest.raises(StoreError, match=r"another stage stands there \(it differs in lr\)"):
        tuned(other, tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_stages_chain_over_folders(tmp_path: Path) -> None:
    first = stage_of("sft", tmp_path, max_steps=2, template="plain", seq_len=80)
    tuned(first, tmp_path / "one")
    second = stage_of("dpo", tmp_path, max_steps=2, model=str(tmp_path / "one"))
    tuned(second, tmp_path / "two")
    assert "Assistant:" in (tmp_path / "two/chat_template.jinja").read_text()
    assert changed(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_mlflow_has_one_run_with_the_curve(tmp_path: Path) -> None:
    import mlflow

    stage = stage_of("sft", tmp_path, max_steps=6, epochs=3.0, checkpoint_every=4)
    own: dict[str, Any] = {"root": tmp_path, "tracking_uri": None}
    with pytest.raises(KeyboardInterrupt):
        tuned(stage, tmp_path / "out", told=Losses(stop_at=5), **own)
    tuned(stage, tmp_path / "out", **own)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("finetune")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["method"] == "full"
    steps = {point.step for point in client.get_metric_history(run.info.run_id, "train/loss")}
    assert steps == {1, 2, 3, 4, 5, 6}


@pytest.mark.slow
def test_the_plan_counts_what_is_then_done(tmp_path: Path) -> None:
    stage = stage_of("sft", tmp_path, max_steps=None, packing="bfd", epochs=2.0)
    heard = Losses()
    tuned(stage, tmp_path / "out", told=heard)
    assert isinstance(stage, Sft)
    n_rows = int(next(line for line in heard.lines if line.startswith("data")).split()[4])
    assert len(heard.losses) == n_steps(stage, n_rows) == 2 * -(-n_rows // 4)


def test_several_processes_and_another_gpu_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_of("sft", tmp_path)
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=1"):
        tuned(stage, tmp_path / "out", device=torch.device("cuda:1"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="one process trains a stage"):
        tuned(stage, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fractions_are_those_of_the_tensors(tmp_path: Path) -> None:
    start = Start(tiny_folder(tmp_path / "model"))
    total = sum(p.numel() for p in load(start.folder).parameters())
    x = start.skeleton().model.net.blocks[0].mixer.ssm.x
    lora = share_of(Lora(name="lora", r=2, targets=["x"]), start.skeleton())
    n_blocks = len(start.skeleton().model.net.blocks)
    assert lora == (n_blocks * 2 * (x.in_features + x.out_features), total)
    dora = share_of(Dora(name="dora", r=2, targets=["x"]), start.skeleton())
    assert dora.trained == lora.trained + n_blocks * x.out_features
    lisa = share_of(Lisa(name="lisa", n_layers=1), start.skeleton())
    assert lisa.trained < total and lisa.total == total


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_killed_stage_goes_on_to_the_same_bits(kind: str, tmp_path: Path) -> None:
    stage = stage_of(kind, tmp_path, epochs=20.0, max_steps=16, checkpoint_every=3)
    tuned(stage, tmp_path / "whole")
    file = tmp_path / "stage.yaml"
    file.write_text(stage.model_dump_json())
    command = [sys.executable, "-m", "hymba_lab", "finetune", kind, str(file), "--threads", "1",
               "--out", str(tmp_path / "out"), "--root", str(tmp_path)]  # fmt: skip
    kills = 0
    for _ in range(2):
        before = set(tmp_path.glob("out/checkpoints/*/whole"))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ)
        while process.poll() is None and set(tmp_path.glob("out/checkpoints/*/whole")) <= before:
            time.sleep(0.02)
        time.sleep(0.1)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 1
    assert subprocess.run(command, check=True, capture_output=True).returncode == 0
    assert changed(tmp_path / "out", tmp_path / "whole") == set()
    assert json.loads((tmp_path / "out/finetune.json").read_text())["result"]["n_steps"] == 16


@pytest.mark.slow
def test_defaults_that_contradict_each_other_do_not_keep_a_stage_from_its_end(
    tmp_path: Path,
) -> None:
    """A temperature without sampling, as releases have it, would be refused at the first save."""
    stage = stage_of("sft", tmp_path, max_steps=1)
    file = tmp_path / "model/generation_config.json"
    file.write_text(json.dumps({"do_sample": False, "temperature": 0.7, "eos_token_id": 2}))
    tuned(stage, tmp_path / "out")
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(("packing", "longest"), [(None, 40), ("wrapped", 64)])
def test_the_longest_text_is_that_of_the_tuning(
    packing: str | None, longest: int, tmp_path: Path
) -> None:
    """Pretrained on rows of a few tokens, tuned on longer texts; a shorter stage takes nothing."""
    stage_of("sft", tmp_path)  # makes the data and a tokenizer
    model = lab_model()
    model.resize_token_embeddings(97)
    assert model.config.lab["training"]["seq_len"] < longest
    model.save_pretrained(tmp_path / "row")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "row" / name).write_bytes((tmp_path / "model" / name).read_bytes())
    lines(tmp_path / "texts.jsonl", [{"text": "a" * 38}, {"text": "b"}])
    data = {"paths": [str(tmp_path / "texts.jsonl")]}
    stage = stage_of("sft", tmp_path, model=str(tmp_path / "row"), data=data, packing=packing,
                     max_steps=1)  # fmt: skip
    tuned(stage, tmp_path / "long")
    assert longest_of(tmp_path / "long") == longest
    lines(tmp_path / "short.jsonl", [{"text": "a"}, {"text": "b"}])
    again = stage_of("sft", tmp_path, model=str(tmp_path / "long"), max_steps=1,
                     data={"paths": [str(tmp_path / "short.jsonl")]})  # fmt: skip
    tuned(again, tmp_path / "after")
    assert longest_of(tmp_path / "after") == longest


def longest_of(folder: Path) -> int | None:
    return longest_text(folder, load_folder(folder, None, texts=False)[0])
