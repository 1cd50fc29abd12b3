"""The tokenizer of a tokenization: given, or trained on a sample of the text."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from hymba_lab.data.prepare.inputs import Unit
from hymba_lab.data.prepare.marks import marked, validates
from hymba_lab.data.prepare.schema import TokenizeConfig
from hymba_lab.errors import DataError

END = "<|endoftext|>"
KNOWN_ENDS = (END, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]")
"""What end-of-text tokens are called; the first that a tokenizer has is taken."""


class Known(NamedTuple):
    """What a tokenizer.json says."""

    model: Any
    vocab: int
    end_of_text: int
    sha256: str


@cache
def known(file: Path, end_of_text: str | None) -> Known:
    """Return the tokenizer of a file; what spells a special token in a text is text to it."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a process per core is ours
    from tokenizers import Tokenizer

    try:
        content = file.read_bytes()
        model = Tokenizer.from_str(content.decode("utf-8"))
    except OSError as error:
        raise DataError(f"tokenizer.file: {file}: cannot be read: {error.strerror}") from None
    except Exception as error:  # the package raises nothing narrower
        raise DataError(f"tokenizer.file: {file}: not a tokenizer.json ({error})") from None
    model.encode_special_tokens = True
    model.no_truncation()
    model.no_padding()
    vocab = max(model.get_vocab(with_added_tokens=True).values()) + 1
    return Known(model, vocab, _end(file, model, end_of_text), hashlib.sha256(content).hexdigest())


def _end(file: Path, model: Any, given: str | None) -> int:
    names = KNOWN_ENDS if given is None else (given,)
    for name in names:
        token = model.token_to_id(name)
        if token is not None:
            return int(token)
    added = [token.content for token in model.get_added_tokens_decoder().values()]
    raise DataError(
        f"{file}: no token {' or '.join(map(repr, names))} to end a document; set "
        f"tokenizer.end_of_text to one of its own: {', '.join(map(repr, added[:12])) or 'none'}"
    )


def make_tokenizer(config: TokenizeConfig, units: Sequence[Unit], file: Path) -> None:
    """Write the tokenizer.json of a configuration: a copy of the given one, or a trained one."""
    options = config.tokenizer
    if options.file is not None:
        known(Path(options.file), options.end_of_text)
        content = Path(options.file).read_bytes()
    else:
        content = _trained(config, units).encode()
    draft = file.with_name(f"{file.name}.{os.getpid()}.partial")
    draft.write_bytes(content)
    os.replace(draft, file)


def _trained(config: TokenizeConfig, units: Sequence[Unit]) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.tokenizer.n_bpe or 0,
        special_tokens=[config.tokenizer.end_of_text or END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(_sample(config, units), trainer)
    return str(model.to_str(pretty=True))


def _sample(config: TokenizeConfig, units: Sequence[Unit]) -> Iterator[str]:
    """Yield training texts from the starts of evenly spread units, `sample_mb` of them together."""
    n_chosen = min(len(units), 64)
    each = int(config.tokenizer.sample_mb * 1e6 / n_chosen)
    for number in range(n_chosen):
        left = each
        for found in marked(units[number * len(units) // n_chosen], config):
            if found and not validates(found[1], config.val_fraction):
                yield found[0][:left]
                left -= len(found[0])
            if left <= 0:
                break
