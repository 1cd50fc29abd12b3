"""A run of the lab as a folder of transformers: its architecture, weights and tokenizer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hymba_lab.checkpoints.codec import SourceIds, text_source
from hymba_lab.checkpoints.weights import described, load_weights
from hymba_lab.config import from_resolved
from hymba_lab.config.start import RUN_WEIGHTS as WEIGHTS
from hymba_lab.data.given import GivenTokenizer
from hymba_lab.data.tokenizers import BPE, Bytes
from hymba_lab.errors import CheckpointError
from hymba_lab.hf.config import HymbaLabConfig
from hymba_lab.hf.model import HymbaLabForCausalLM

END = "<|endoftext|>"


def from_run(run: Path, plugins: Sequence[Path] = ()) -> tuple[HymbaLabForCausalLM, Any]:
    """Return model and tokenizer of `runs/<id>`; the ids are those that it was trained on.

    Raises `CheckpointError` for what is no run, and for one without text.
    """
    file = run if run.is_file() else run / WEIGHTS
    if not file.is_file():
        raise CheckpointError(f"{run}: no {WEIGHTS}, so no run of the lab that was trained.")
    weights, facts = load_weights(file)
    resolved, vocab = described(file, facts)
    config = from_resolved(resolved, plugins=plugins, source=str(file))
    codec = text_source(config, file)
    if not isinstance(codec, SourceIds):
        raise CheckpointError(f"{file}: its text source has no tokenizer of its own.")
    tokenizer = _tokenizer(codec.tokenizer, codec.offset, file)
    dtype = next(iter(weights.values())).dtype
    end = codec.eos[0]
    model = HymbaLabForCausalLM(HymbaLabConfig.of(config, vocab, end, dtype)).to(dtype)
    state = {
        "lm_head.weight" if name == "head.weight" else f"model.net.{name}": weight
        for name, weight in weights.items()
    }
    if config.model.tie_embeddings:
        state["lm_head.weight"] = state["model.net.embedding.weight"]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{file}: not the weights of its configuration: {error}") from None
    return model.eval(), tokenizer


def _tokenizer(ours: Any, offset: int, file: Path) -> Any:
    """Return the same tokenizer for transformers: equal ids for every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if isinstance(ours, GivenTokenizer):
        if offset:
            raise CheckpointError(
                f"{file}: its text's ids begin at {offset}, behind another source's; transformers "
                "cannot move those of a given tokenizer."
            )
        made, end = (
            Tokenizer.from_str(ours.model.to_str()),
            ours.model.id_to_token(ours.end_of_text),
        )
        made.encode_special_tokens = False  # a template writes them
    else:
        if isinstance(ours, BPE):
            spec = json.loads(ours.model.to_str())["model"]
            vocab = {token: offset + 1 + i for token, i in spec["vocab"].items()}
            merges = [_two(merge) for merge in spec["merges"]]
        elif isinstance(ours, Bytes):
            vocab = {symbol: offset + byte for byte, symbol in _symbols().items() if byte}
            merges = []
        else:
            raise CheckpointError(f"{file}: a tokenizer of another kind, {type(ours).__name__}.")
        made, end = Tokenizer(models.BPE(vocab | {END: offset}, merges)), END
        made.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=bool(merges)
        )
        made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=end, eos_token=end, pad_token=end, padding_side="left"
    )


def _two(merge: Any) -> tuple[str, str]:
    """Return the two parts of a merge, which files of either age write."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _symbols() -> dict[int, str]:
    """Return the character that stands for each byte in byte-level BPE (GPT-2's table)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {
        byte: chr(256 + n) for n, byte in enumerate(hidden)
    }


def save_run(run: Path, out: Path, plugins: Sequence[Path] = ()) -> None:
    """Write a run as a folder that `from_pretrained`, chat, evaluation and fine-tuning take."""
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out}: is not empty; name another folder.")
    model, tokenizer = from_run(run, plugins)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
