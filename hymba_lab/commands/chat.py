"""`hymba-lab chat FOLDER`: talk to a model, or answer the prompts of a file in batches."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hymba_lab import cli, flags
from hymba_lab.atomic import parsed_json, text_of
from hymba_lab.errors import UserError

if TYPE_CHECKING:
    from hymba_lab.checkpoints.codec import Codec
    from hymba_lab.dialogue.conversation import Conversation
    from hymba_lab.dialogue.template import Message, Template
    from hymba_lab.model import LanguageModel

_SORTED = 16  # batches whose prompts are sorted by length: answers come out in between
HELP = "/reset forgets the turns, /save FILE writes them, /system TEXT, /exit"


class Speaker(NamedTuple):
    """A model, how it is spoken to, and how it answers."""

    model: "LanguageModel"
    codec: "Codec"
    template: "Template"
    room: int
    """Tokens that a prompt may have."""
    options: argparse.Namespace


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="hymba-lab chat", description=f"Talk to a model. {HELP}.",
    )  # fmt: skip
    add = parser.add_argument
    add("model", type=Path, metavar="FOLDER", help="folder with config.json, or runs/<id>")
    add("--system", metavar="TEXT", help="what stands before the conversation")
    add("--template", metavar="FILE", help="a chat template (jinja), or: plain")
    add("--prompts", type=Path, metavar="FILE",
        help="answer these in batches: a prompt a line, or .jsonl")  # fmt: skip
    flags.add(parser, "batch-size")
    flags.add(parser, "max-new-tokens", default=256)
    flags.add(parser, "temperature", "top-k", "top-p")
    flags.add(parser, "seed", "dtype", "device", "threads", "plugin")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Talk until the input ends, or answer a file; returns 0."""
    options = arguments().parse_args(argv)
    prompts = _prompts(options.prompts, options.system) if options.prompts else None
    speaker = _speaker(options)
    if prompts is not None:
        _answer_all(speaker, prompts)
    else:
        _talk(speaker)
    return 0


def _speaker(options: argparse.Namespace) -> Speaker:
    from hymba_lab.checkpoints.load import load, longest_text
    from hymba_lab.cost.throughput import device_of, set_threads
    from hymba_lab.dialogue.template import template_of

    device = device_of(options.device)
    set_threads(options.threads)
    if options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size}: give at least one prompt.")
    model, codec = load(options.model, options.dtype, texts=True, plugins=options.plugins)
    assert codec is not None, "texts were asked for"
    template = template_of(options.model, options.template)
    longest = longest_text(options.model, model) or 2048
    room = longest - options.max_new_tokens
    if room < 1 or options.max_new_tokens < 1:
        raise UserError(
            f"--max-new-tokens {options.max_new_tokens}: give from 1 to {longest - 1}; the model's "
            f"longest text has {longest} tokens."
        )
    return Speaker(model.to(device), codec, template, room, options)


def _talk(speaker: Speaker) -> None:
    """Read a line, answer it as it is made, until the input ends."""
    from hymba_lab.dialogue.conversation import Conversation

    talk = Conversation(speaker.options.system)
    if sys.stdin.isatty():
        print(HELP)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if line in ("/exit", "/quit"):
            return
        if line.startswith("/"):
            print(_command(talk, line))
        elif line:
            _answer(speaker, talk, line)


def _answer(speaker: Speaker, talk: "Conversation", line: str) -> None:
    """Print the answer to a line; what cannot be said leaves the conversation as it was."""
    from hymba_lab.dialogue.conversation import pieces

    talk.say("user", line)
    try:
        prompt = talk.prompt(speaker.template, speaker.codec, speaker.room)
        steps = _steps(speaker, [prompt.ids])
    except UserError as error:
        talk.turns.pop()
        print(f"error: {error}")
        return
    if prompt.n_left_out:
        print(_left_out(prompt.n_left_out))
    kept: list[str] = []
    ids = (row[0] for row in steps)
    try:
        for piece in pieces(ids, speaker.codec, speaker.template.stops, kept.append):
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" (stopped)", end="")
    print()
    said = kept[0] if kept else ""  # the template writes the space before it again
    talk.say("assistant", said.removeprefix(speaker.template.lead))


def _command(talk: "Conversation", line: str) -> str:
    """Do what a line with a slash asks for; return what to say about it."""
    name, _, rest = line.partition(" ")
    if name == "/reset":
        talk.reset()
        return "(the turns are forgotten)"
    if name == "/system":
        talk.system = rest or None
        return "(the system text is set)"
    if name == "/save":
        return _saved(talk, Path(rest)) if rest else "(/save FILE: give a name)"
    return f"({name} is no command: {HELP})"


def _saved(talk: "Conversation", path: Path) -> str:
    """Write the conversation as one line of `{"messages": [...]}`."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps({"messages": talk.messages}, ensure_ascii=False) + "\n")
    except FileExistsError:
        return f"({path} is there already: give another name)"
    except OSError as error:
        return f"({path} cannot be written: {error.strerror})"
    return f"({len(talk.messages)} messages in {path})"


def _left_out(n: int) -> str:
    return f"(the oldest {n} turn(s) no longer fit and were left out)"


def _answer_all(speaker: Speaker, conversations: list[list["Message"]]) -> None:
    """Answer in batches; each answer is printed when all before it are."""
    from hymba_lab.checkpoints.codec import whole_text
    from hymba_lab.dialogue.conversation import Conversation, pieces

    asked, cut = [], []
    for messages in conversations:
        talk = Conversation()
        talk.turns = messages
        prompt = talk.prompt(speaker.template, speaker.codec, speaker.room)
        asked.append(prompt.ids)
        cut.append(prompt.n_left_out)
    answers: dict[int, str] = {}
    n_printed = 0
    for numbers in _batches([len(ids) for ids in asked], speaker.options.batch_size):
        rows = zip(*_steps(speaker, [asked[i] for i in numbers]), strict=True)
        for i, row in zip(numbers, rows, strict=True):
            answers[i] = "".join(
                pieces(row, speaker.codec, speaker.template.stops, lambda text: None)
            )
        while n_printed in answers:
            said = whole_text(conversations[n_printed][-1]["content"])
            left_out = f"{_left_out(cut[n_printed])}\n" if cut[n_printed] else ""
            print(f"> {said}\n{left_out}{answers[n_printed].strip()}\n", flush=True)
            n_printed += 1


def _batches(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield the numbers of prompts of about one length, the longest first in each 16 batches."""
    for first in range(0, len(lengths), _SORTED * size):
        near = range(first, min(len(lengths), first + _SORTED * size))
        order = sorted(near, key=lambda i: -lengths[i])
        yield from (order[n : n + size] for n in range(0, len(order), size))


def _steps(speaker: Speaker, prompts: list[list[int]]) -> Iterator[list[int]]:
    """Yield each step's token of every row."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in prompts])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in prompts])
    device, options = speaker.model.embedding.weight.device, speaker.options
    steps = speaker.model.stream(
        ids.to(device),
        mask.to(device),
        options.max_new_tokens,
        options.temperature,
        options.top_k,
        options.top_p,
        speaker.codec.eos,
        options.seed,
    )
    return (step.tolist() for step in steps)


def _prompts(path: Path, system: str | None) -> list[list["Message"]]:
    """Return the conversations of a file, each ending with what the user says."""
    try:
        lines = text_of(path).split("\n")  # not at U+2028 and its like, which JSON may hold
    except UnicodeDecodeError as error:
        said = f"byte {error.start} is not UTF-8; save it as UTF-8"
        raise UserError(f"--prompts {path}: {said}.") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--prompts {path}: cannot be read: {why}; name a text file.") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}:{number}"
            found.append(_parsed(line, where) if path.suffix == ".jsonl" else _asked(line.strip()))
    if not found:
        raise UserError(f"--prompts {path}: no prompt; write one a line.")
    head = [] if system is None else [{"role": "system", "content": system}]
    return [head + messages for messages in found]


def _asked(text: str) -> list["Message"]:
    return [{"role": "user", "content": text}]


def _parsed(line: str, where: str) -> list["Message"]:
    try:
        content = parsed_json(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}).") from None
    if isinstance(content, dict) and isinstance(content.get("prompt"), str):
        return _asked(content["prompt"])
    messages = content.get("messages") if isinstance(content, dict) else None
    good = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    )
    if not good or not messages or messages[-1]["role"] != "user":
        raise UserError(
            f'{where}: write {{"prompt": "..."}}, or {{"messages": [{{"role": ..., "content": ...}}'
            ", ...]} that ends with the user's."
        )
    return [dict(m) for m in messages]


if __name__ == "__main__":
    cli.run(main)
