"""`python -m hymba_lab.generate CHECKPOINT --prompt "..."`: text from a trained model.

CHECKPOINT is a folder in the released format (`config.json`), or a run of ours
(`runs/<id>` or its `weights.safetensors`).
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hymba_lab import cli, flags
from hymba_lab.errors import UserError

if TYPE_CHECKING:
    from hymba_lab.checkpoints.codec import Codec
    from hymba_lab.model import LanguageModel


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab generate", description="Continue prompts with a trained model."
    )
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="folder with config.json, or runs/<id>")
    add("--prompt", action="append", default=[], metavar="TEXT", help="may be repeated: one batch")
    add("--ids", action="append", default=[], metavar="'1 2 3'",
        help="a prompt as token ids; may be repeated")  # fmt: skip
    flags.add(parser, "max-new-tokens")
    flags.add(parser, "temperature", "top-k", "top-p")
    add("--no-eos", action="store_true", help="go on after the end of a text")
    add("--chunk", "--chunk-size", dest="chunk_size", type=flags.integer, default=512, metavar="N",
        help="prompt tokens read at once (default: 512)")  # fmt: skip
    flags.add(parser, "seed", "dtype", "device", "threads", "plugin")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the prompts' continuations; returns 0."""
    options = arguments().parse_args(argv)
    given = [("prompt", text) for text in options.prompt] + [("ids", ids) for ids in options.ids]
    if not given:
        raise UserError("nothing to continue; give --prompt TEXT or --ids '1 2 3'.")
    from hymba_lab.checkpoints.load import ends_of, load
    from hymba_lab.cost.throughput import device_of, set_threads

    device = device_of(options.device)
    set_threads(options.threads)
    model, codec = load(
        options.checkpoint, options.dtype, texts=bool(options.prompt), plugins=options.plugins
    )
    prompts = [
        codec.encode(said) if codec and kind == "prompt" else _ids(said) for kind, said in given
    ]
    ends = [] if options.no_eos else codec.eos if codec else ends_of(options.checkpoint)
    steps = _stream(model.to(device), prompts, ends, options)
    if len(given) == 1 and codec and options.prompt:
        _print_live(partial(_whole, options.prompt[0], prompts[0], codec, ends), steps)
        return 0
    rows = [list(row) for row in zip(*steps, strict=True)]
    for (kind, said), prompt, row in zip(given, prompts, rows, strict=True):
        if codec and kind == "prompt":
            print(_whole(said, prompt, codec, ends, row))
        else:
            print(json.dumps(_until(row, ends)))
    return 0


def _stream(
    model: "LanguageModel", prompts: list[list[int]], ends: list[int], options: Any
) -> Iterator[list[int]]:
    """Yield every step's token of each row; prompts are padded on the right."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in prompts], dtype=torch.long)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in prompts])
    steps = model.stream(
        ids.to(model.embedding.weight.device),
        mask.to(model.embedding.weight.device),
        options.max_new_tokens,
        options.temperature,
        options.top_k,
        options.top_p,
        ends,
        options.seed,
        options.chunk_size,
    )
    return (step.tolist() for step in steps)


def _print_live(whole: Callable[[list[int]], str], steps: Iterator[list[int]]) -> None:
    """Print the text while it is made; a character waits until it is whole."""
    made: list[int] = []
    shown = whole(made)
    print(shown, end="", flush=True)
    for (token,) in steps:
        made.append(token)
        text = whole(made)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            print(text[len(shown) :], end="", flush=True)
            shown = text
    print(whole(made)[len(shown) :])


def _whole(said: str, prompt: list[int], codec: "Codec", ends: list[int], made: list[int]) -> str:
    """Return what was said with what was made behind it.

    A decoder that strips the space before a text's first word takes it from its beginning alone.
    """
    from hymba_lab.checkpoints.codec import whole_text

    own = _until(made, ends)
    begun, text = codec.decode(prompt), codec.decode([*prompt, *own])
    if not text.startswith(begun):
        begun, text = "", codec.decode(own)
    return whole_text(said) + text[len(begun) :]


def _until(ids: list[int], eos: list[int]) -> list[int]:
    return list(takewhile(lambda token: token not in eos, ids))


def _ids(text: str) -> list[int]:
    try:
        ids = [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        ids = []
    if not ids or max(map(abs, ids)) >= 2**63:
        raise UserError(f"--ids {text[:80]!r}: write ids of tokens, such as '1 2 3'.") from None
    return ids


if __name__ == "__main__":
    cli.run(main)
