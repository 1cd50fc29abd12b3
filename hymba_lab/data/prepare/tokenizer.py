"""The tokenizer of a tokenization: given, or trained on a sample of the text."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from hymba_lab.data.given import END, given
from hymba_lab.data.prepare.inputs import Unit
from hymba_lab.data.prepare.marks import marked, validates
from hymba_lab.data.prepare.schema import TokenizeConfig


def make_tokenizer(config: TokenizeConfig, units: Sequence[Unit], file: Path) -> None:
    """Write the tokenizer.json of a configuration: a copy of the given one, or a trained one."""
    options = config.tokenizer
    if options.file is not None:
        given(Path(options.file), options.end_of_text)
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
