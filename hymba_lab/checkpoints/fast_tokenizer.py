"""The tokenizer of a run as one of transformers."""

import json
from typing import Any

from hymba_lab.data.given import GivenTokenizer
from hymba_lab.data.tokenizers import BPE, Bytes
from hymba_lab.errors import CheckpointError

END = "<|endoftext|>"


def fast_tokenizer(ours: Any, offset: int, where: str) -> Any:
    """Return a text source's tokenizer as a `PreTrainedTokenizerFast`: equal ids for every text.

    `offset` is where the source's ids begin in the model's vocabulary. Raises `CheckpointError`,
    naming `where`, for a tokenizer that cannot be written as one.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if isinstance(ours, GivenTokenizer):
        if offset:
            raise CheckpointError(
                f"{where}: its text's ids begin at {offset}, behind another source's; transformers "
                "cannot move those of a given tokenizer."
            )
        made, end = (
            Tokenizer.from_str(ours.model.to_str()),
            ours.model.id_to_token(ours.end_of_text),
        )
        made.encode_special_tokens = False  # a template writes them
        if made.encode("a").ids != made.encode("a", add_special_tokens=False).ids:
            made.post_processor = None  # training put nothing around a text but its end
    else:
        if isinstance(ours, BPE):
            spec = json.loads(ours.model.to_str())["model"]
            vocab = {token: offset + 1 + i for token, i in spec["vocab"].items()}
            merges = [_two(merge) for merge in spec["merges"]]
        elif isinstance(ours, Bytes):
            vocab = {symbol: offset + byte for byte, symbol in _symbols().items() if byte}
            merges = []
        else:
            raise CheckpointError(f"{where}: a tokenizer of another kind, {type(ours).__name__}.")
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
