"""`python -m hymba_lab.generate CHECKPOINT --prompt "..."`: text from a trained model.

CHECKPOINT is a folder in the released format (`config.json`), or a run of ours
(`runs/<id>` or its `weights.safetensors`).
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hymba_lab import cli
from hymba_lab.errors import CheckpointError, UserError

if TYPE_CHECKING:
    from hymba_lab.model import LanguageModel

WEIGHTS = "weights.safetensors"


class Codec(Protocol):
    """Text to ids of the model and back; `eos` are the ids that end a text."""

    eos: list[int]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a prompt."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids."""
        ...


class TokenizerFile:
    """The `tokenizer.json` of a folder in the released format."""

    def __init__(self, path: Path, eos: list[int]) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises nothing narrower
            raise CheckpointError(f"{path}: not a tokenizer ({error}).") from error
        self.eos = eos

    def encode(self, text: str) -> list[int]:
        """Return the ids, with those that the tokenizer puts in front of every text."""
        return list(self._tokenizer.encode(text).ids)

    def decode(self, ids: list[int]) -> str:
        """Return the text without special tokens."""
        return str(self._tokenizer.decode(ids))


class SourceIds:
    """The ids of one text source of a run, which start at `offset` in the mixture's vocabulary."""

    def __init__(self, tokenizer: Any, offset: int) -> None:
        self._tokenizer, self._offset = tokenizer, offset
        self.eos = [offset]  # id 0 of a source ends its documents

    def encode(self, text: str) -> list[int]:
        """Return the ids without an end of document."""
        return [self._offset + int(i) for i in self._tokenizer.encode([text.encode()])[:-1]]

    def decode(self, ids: list[int]) -> str:
        """Return the text; ids of other sources become U+FFFD."""
        text = ""
        own = [i - self._offset for i in ids]
        while own:
            known = list(takewhile(lambda i: 0 < i < self._tokenizer.vocab, own))
            text += self._tokenizer.decode(known).decode("utf-8", "replace")
            text += "\N{REPLACEMENT CHARACTER}" if len(known) < len(own) else ""
            own = own[len(known) + 1 :]
        return text


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m hymba_lab.generate", description="Continue prompts with a trained model."
    )
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="folder with config.json, or runs/<id>")
    add("--prompt", action="append", default=[], metavar="TEXT", help="may be repeated: one batch")
    add("--ids", action="append", default=[], metavar="'1 2 3'", help="a prompt as token ids")
    add("--max-new-tokens", type=int, default=64, metavar="N", help="default: 64")
    add("--temperature", type=float, default=0.0, metavar="X", help="default: 0, the likeliest")
    add("--top-k", type=int, metavar="N", help="draw from the N likeliest tokens only")
    add("--top-p", type=float, metavar="P", help="draw from the likeliest that hold P together")
    add("--seed", type=int, metavar="N", help="draw the same tokens again")
    add("--no-eos", action="store_true", help="go on after the end of a text")
    add("--dtype", choices=["float32", "bfloat16", "float16"], help="default: the checkpoint's")
    add("--device", default="cpu", metavar="NAME", help="default: cpu")
    add("--chunk-size", type=int, default=512, metavar="N", help="prompt tokens read at once")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the prompts' continuations; returns 0."""
    options = arguments().parse_args(argv)
    given = [("prompt", text) for text in options.prompt] + [("ids", ids) for ids in options.ids]
    if not given:
        raise UserError("nothing to continue; give --prompt TEXT or --ids '1 2 3'.")
    model, codec = load(options.checkpoint, options.dtype, texts=bool(options.prompt))
    prompts = [
        codec.encode(said) if codec and kind == "prompt" else _ids(said) for kind, said in given
    ]
    steps = _stream(model.to(options.device), prompts, codec, options)
    if len(given) == 1 and codec and options.prompt:
        _print_live(options.prompt[0], codec, steps)
        return 0
    rows = [list(row) for row in zip(*steps, strict=True)]
    for (kind, said), row in zip(given, rows, strict=True):
        text = codec is not None and kind == "prompt"
        print(said + codec.decode(_until(row, codec.eos)) if codec and text else _spelled(row))
    return 0


def load(path: Path, dtype: str | None, *, texts: bool) -> tuple["LanguageModel", Codec | None]:
    """Return model and codec of a checkpoint; the codec is None if no `texts` are asked for.

    Raises `CheckpointError` for what is no checkpoint and, with `texts`, has no tokenizer.
    """
    file = path if path.is_file() else path / WEIGHTS
    if file.is_file() and not (path / "config.json").is_file():
        return _load_run(file, dtype, texts)
    from hymba_lab import load_pretrained

    model = load_pretrained(path, dtype)
    if not texts:
        return model, None
    if not (path / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{path}: no tokenizer.json; copy it from where the checkpoint comes from, or give "
            "--ids instead of --prompt."
        )
    eos = (model.released or {}).get("eos_token_id")
    ends = [eos] if isinstance(eos, int) else list(eos or [])
    known = [end for end in ends if 0 <= end < model.embedding.num_embeddings]
    return model, TokenizerFile(path / "tokenizer.json", known)


def _load_run(file: Path, dtype: str | None, texts: bool) -> tuple["LanguageModel", Codec | None]:
    import torch

    from hymba_lab.config import from_resolved
    from hymba_lab.model import build_model
    from hymba_lab.training.checkpoint import load_weights

    weights, facts = load_weights(file)
    if not {"config", "vocab"} <= facts.keys():
        raise CheckpointError(
            f"{file}: holds no configuration; give the weights.safetensors of a run, or a folder "
            "with config.json."
        )
    config = from_resolved(facts["config"])
    with torch.device("meta"):
        model = build_model(config.model, facts["vocab"])
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{file}: not the weights of its configuration: {error}") from None
    codec = _text_source(config, file) if texts else None
    return model.to(getattr(torch, dtype) if dtype else None).eval(), codec


def _text_source(config: Any, file: Path) -> Codec:
    """Return the codec of the first source of a run that is text."""
    from hymba_lab.data.source import datasets
    from hymba_lab.data.tokenizers import BPE, Bytes

    offset = 0
    for spec in config.data.values():
        encoding = spec.options().get("tokenizer")
        if encoding == "bytes":
            return SourceIds(Bytes(), offset)
        source: Any = datasets.build(spec, config.training.seq_len)
        if encoding == "bpe":
            _, (tokens, *_) = source.train.__reduce__()  # a token file pickles as its name
            return SourceIds(BPE(tokens.with_name("tokenizer.json")), offset)
        offset += source.vocab
    labels = ", ".join(f"{label} ({spec.name})" for label, spec in config.data.items())
    raise CheckpointError(
        f"{file}: trained on {labels}: none of it is text; give --ids instead of --prompt."
    )


def _stream(
    model: "LanguageModel", prompts: list[list[int]], codec: Codec | None, options: Any
) -> Iterator[list[int]]:
    """Yield every step's token of each row; prompts are padded on the right."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in prompts], dtype=torch.long)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in prompts])
    ends = [] if options.no_eos or codec is None else codec.eos
    steps = model.stream(
        ids.to(options.device),
        mask.to(options.device),
        options.max_new_tokens,
        options.temperature,
        options.top_k,
        options.top_p,
        ends,
        options.seed,
        options.chunk_size,
    )
    return (step.tolist() for step in steps)


def _print_live(prompt: str, codec: Codec, steps: Iterator[list[int]]) -> None:
    """Print the text while it is made; a character waits until it is whole."""
    print(prompt, end="", flush=True)
    made: list[int] = []
    shown = ""
    for (token,) in steps:
        made.append(token)
        text = codec.decode(_until(made, codec.eos))
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            print(text[len(shown) :], end="", flush=True)
            shown = text
    print(codec.decode(_until(made, codec.eos))[len(shown) :])


def _until(ids: list[int], eos: list[int]) -> list[int]:
    return list(takewhile(lambda token: token not in eos, ids))


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise UserError(f"--ids {text!r}: write numbers, such as '1 2 3'.") from None


def _spelled(ids: list[int]) -> str:
    return json.dumps(ids)


if __name__ == "__main__":
    cli.run(main)
