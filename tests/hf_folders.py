"""Tiny models and folders for the tests of everything that stands on transformers."""

import json
import shutil
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from examples import experiment
from torch import Tensor

pytest.importorskip("transformers")

import transformers
from tokenizers import Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

from hymba_lab.hf import HymbaForCausalLM, HymbaLabConfig, HymbaLabForCausalLM

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

FOLDER = Path(__file__).parent / "data/hymba_tiny"
VOCAB = 13
HYMBA: dict[str, Any] = {
    "n_layers": 6,
    "meta_tokens": {"name": "learned", "n_meta": 3},
    "placement": {"name": "first_middle_last", "window": 4},
    "kv_sharing": {"name": "adjacent"},
}
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content + '|' }}"
    "{% elif message.role == 'user' %}{{ '<' + message.content + '>' }}"
    "{% else %}{% generation %}{{ message.content + eos_token }}{% endgeneration %}{% endif %}"
    "{% endfor %}"
)
CHARACTERS = " \n" + string.digits + string.ascii_letters + string.punctuation[:30]


def lab_model(seed: int = 0, **model: Any) -> HymbaLabForCausalLM:
    """An architecture of the lab with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    config = experiment(init_std=0.2, **model)
    return HymbaLabForCausalLM(HymbaLabConfig.of(config, VOCAB, 0, torch.float32)).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One id per character for the 97 ids of the tiny checkpoint; `<s>` goes in front of a text."""
    names = ["<unk>", "<s>", "</s>", *CHARACTERS]
    model = models.BPE(
        vocab={name: i for i, name in enumerate(names)}, merges=[], unk_token="<unk>"
    )
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        chat_template=TEMPLATE,
        padding_side="left",
    )


def tiny_folder(folder: Path, **values: Any) -> Path:
    """The tiny checkpoint with a tokenizer; `values` go into its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(FOLDER / "model.safetensors", folder / "model.safetensors")
    config = json.loads((FOLDER / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))
    tiny_tokenizer().save_pretrained(folder)
    return folder


def prompts(n_rows: int, longest: int = 24, vocab: int = VOCAB, seed: int = 1) -> list[Tensor]:
    """Random ids of random lengths."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (n_rows,), generator=random).tolist()
    return [torch.randint(1, vocab, (n,), generator=random) for n in lengths]


def padded(rows: list[Tensor], side: str = "left") -> dict[str, Tensor]:
    """Rows in one batch with their mask, as a tokenizer makes them."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), None) if side == "left" else slice(len(row))
        ids[i, place], mask[i, place] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


def load(folder: Path, **options: Any) -> HymbaForCausalLM:
    """A folder through the Auto class."""
    from transformers import AutoModelForCausalLM

    model: HymbaForCausalLM = AutoModelForCausalLM.from_pretrained(folder, **options)
    return model
