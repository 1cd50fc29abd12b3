"""A run of the lab as a folder: the same ids, the same logits, tuned like any other."""

import json
from pathlib import Path

import pytest
import torch
from conftest import TINY

pytest.importorskip("transformers")

from hf_folders import load
from transformers import AutoTokenizer

from hymba_lab.__main__ import main
from hymba_lab.checkpoints.codec import SourceIds, TokenizerFile
from hymba_lab.checkpoints.fast_tokenizer import fast_tokenizer
from hymba_lab.checkpoints.load import load as load_any
from hymba_lab.data.given import GivenTokenizer
from hymba_lab.data.tokenizers import Bytes
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
        read = load(out)(ids, use_cache=False).logits
        assert torch.equal(read, expected) and torch.equal(same(ids), expected)


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


def test_a_given_tokenizer_puts_nothing_in_front_that_training_did_not(tmp_path: Path) -> None:
    """Llama's template puts <s> before every text: an id that such a run has never read."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {"<s>": 0, "</s>": 1, "one": 2, "two": 3, "<unk>": 4}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    ours = GivenTokenizer(tmp_path / "tokenizer.json")
    written = fast_tokenizer(ours, 0, "data.text")
    assert written("one two")["input_ids"] == SourceIds(ours, 0).encode("one two") == [2, 3]
    written.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("one two")["input_ids"] == [2, 3]


def test_half_a_surrogate_pair_is_encoded_as_a_question_mark(tmp_path: Path) -> None:
    """JSON and a shell can spell it; no tokenizer can."""
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"? a": 7, "<unk>": 0}, unk_token="<unk>")).save(
        str(tmp_path / "tokenizer.json")
    )
    odd = "\ud83d a"
    assert TokenizerFile(tmp_path / "tokenizer.json", []).encode(odd) == [7]
    assert SourceIds(Bytes(), 0).encode(odd) == SourceIds(Bytes(), 0).encode("? a")
