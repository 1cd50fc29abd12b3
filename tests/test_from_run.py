"""A run of the lab as a folder: the same ids, the same logits, tuned like any other."""

import json
from pathlib import Path

import pytest
import torch
from conftest import TINY

pytest.importorskip("transformers")

from hf_folders import load

from hymba_lab.__main__ import main
from hymba_lab.checkpoints.load import load as load_any
from hymba_lab.hf.from_run import save_run
from hymba_lab.training.single import train

TEXTS = ["def f(x):\n    return x + 1", "naïve — €5", " two  spaces\tand a tab", "<|user|>", ""]
FILES = "name: files, rows: 4, paths: [text/*.txt], val_fraction: 0.3, n_val: 8"
SOURCES = {
    "bytes": f"text: {{{FILES}, tokenizer: bytes}}",
    "bpe": f"text: {{{FILES}, tokenizer: bpe, n_bpe: 300}}",
}


def run_of(kind: str, place: Path) -> Path:
    """A run of ten steps on a recall task and on text behind it, so that ids are moved."""
    (place / "text").mkdir()
    for n in range(8):
        (place / "text" / f"{n}.txt").write_text(f"the {n}th text says that {n} is {n}\n" * 40)
    file = place / "run.yaml"
    text = TINY.replace("optimizer:", f"  {SOURCES[kind]}\noptimizer:")
    file.write_text(text.replace("seq_len: 16, tokens: 640", "seq_len: 64, tokens: 5120"))
    return train(file, 0, root=place).folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(SOURCES))
def test_a_run_has_the_same_ids_and_logits_as_a_folder(kind: str, tmp_path: Path) -> None:
    run, out = run_of(kind, tmp_path), tmp_path / "folder"
    net, codec = load_any(run, None, texts=True)
    save_run(run, out)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(out)
    same, again = load_any(out, None, texts=True)
    assert codec is not None and again is not None
    assert again.eos == codec.eos == [tokenizer.eos_token_id]
    for text in TEXTS:
        ids = codec.encode(text)
        assert tokenizer(text)["input_ids"] == again.encode(text) == ids
        assert tokenizer.decode(ids) == text
    ids = torch.tensor([codec.encode(TEXTS[0])])
    with torch.no_grad():
        expected = net(ids)
        assert torch.equal(load(out)(ids).logits, expected) and torch.equal(same(ids), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_a_row_of_an_ablation_is_tuned_and_talks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trl")
    run = run_of("bpe", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["finetune", "export", str(run), "--out", "folder"]) == 0
    records = [{"instruction": f"say {n}", "output": str(n)} for n in range(8)]
    Path("own.json").write_text(json.dumps(records))
    words = ["--set", "model=folder", "--set", "data.paths=[own.json]", "--device", "cpu"]
    assert main(["finetune", "sft", "alpaca", *words, "--threads", "1"]) == 0
    Path("asked.txt").write_text("say 3\n")
    capsys.readouterr()
    chat = ["chat", "finetuned/alpaca", "--prompts", "asked.txt", "--max-new-tokens", "4"]
    assert main(chat) == 0
    assert capsys.readouterr().out.startswith("> say 3\n")
