"""Records of every known format as one of four examples, checked one by one."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from hymba_lab.errors import DataError, suggest
from hymba_lab.finetune.records import Record, files, read

Message = dict[str, str]
ROLES = ("system", "user", "assistant", "tool")


class Text(NamedTuple):
    """A text of which every token is learned."""

    text: str
    where: str


class Completion(NamedTuple):
    """A text to go on from, and how it goes on; no template."""

    prompt: str
    completion: str
    where: str


class Chat(NamedTuple):
    """A conversation, whose assistant's turns are learned, but for the first `n_given` turns."""

    messages: list[Message]
    where: str
    n_given: int = 0


class Pair(NamedTuple):
    """A prompt with the better and the worse answer: all text, or all turns."""

    prompt: str | list[Message]
    chosen: str | list[Message]
    rejected: str | list[Message]
    where: str


Example = Text | Completion | Chat | Pair

_KEYS: dict[str, tuple[str, ...]] = {
    "preference": ("prompt", "chosen", "rejected"),
    "paired_conversation": ("chosen", "rejected"),
    "messages": ("messages",),
    "conversation": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "text2text": ("input", "output"),
    "text": ("text",),
    "text_only": ("text",),
}


def examples(paths: Sequence[str], form: str | None, as_messages: bool) -> Iterator[Example]:
    """Yield the examples of all files; `form` None = told by each file's first record.

    Raises `DataError` with file and line or number.
    """
    for path in files(paths):
        kind = form
        for record in read(path):
            kind = kind or _kind(record)
            missing = [key for key in _KEYS[kind] if key not in record.content]
            if missing:
                raise DataError(
                    f"{record.where}: no key {missing[0]!r}, which {kind} needs; it has "
                    f"{', '.join(map(repr, record.content)) or 'none'}."
                )
            example = _MADE[kind](record)
            yield _turned(example) if as_messages else example


def _kind(record: Record) -> str:
    if record.kind is not None:
        if record.kind not in _KEYS:
            raise DataError(
                f"{record.where}: no type {record.kind!r}" + suggest(record.kind, _KEYS)
            )
        return record.kind
    for kind, keys in _KEYS.items():
        if set(keys) <= record.content.keys():
            return kind
    known = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in _KEYS.items())
    raise DataError(
        f"{record.where}: the keys {', '.join(map(repr, record.content)) or '(none)'} are those of "
        f"no known format ({known})."
    )


def _text(record: Record) -> Text:
    return Text(_string(record, "text"), record.where)


def _completion(record: Record, prompt: str = "prompt", answer: str = "completion") -> Example:
    if isinstance(record.content[prompt], list):
        turns = _messages(record.content[prompt], record.where, prompt)
        said = _messages(record.content[answer], record.where, answer)
        return _chat([*turns, *said], record.where, len(turns))
    return Completion(_string(record, prompt, empty=True), _string(record, answer), record.where)


def _alpaca(record: Record) -> Chat:
    """The instruction with its input below it is what the user says."""
    asked, given = _string(record, "instruction"), record.content.get("input") or ""
    if not isinstance(given, str):
        raise DataError(f"{record.where}: 'input' is {given!r}, not text.")
    asked = f"{asked}\n\n{given}" if given.strip() else asked
    said = _string(record, "output")
    return Chat([_turn("user", asked), _turn("assistant", said)], record.where)


def _conversation(record: Record) -> Chat:
    messages = _messages(record.content["messages"], record.where, "messages")
    system = record.content.get("system")
    if isinstance(system, str) and system.strip():
        messages = [_turn("system", system), *messages]
    return _chat(messages, record.where)


def _chat(messages: list[Message], where: str, n_given: int = 0) -> Chat:
    if all(message["role"] != "assistant" for message in messages[n_given:]):
        raise DataError(f"{where}: no turn of the assistant, so nothing is learned from it.")
    return Chat(messages, where, n_given)


def _preference(record: Record) -> Pair:
    chosen, rejected = record.content["chosen"], record.content["rejected"]
    if isinstance(chosen, dict) and isinstance(rejected, dict):  # LMFlow: {"messages": [...]}
        chosen, rejected = chosen.get("messages"), rejected.get("messages")
    prompt = record.content.get("prompt")
    pair: Pair
    if isinstance(chosen, str):
        asked, better, worse = (_string(record, key) for key in ("prompt", "chosen", "rejected"))
        pair = Pair(asked, better, worse, record.where)
    else:
        chosen = _messages(chosen, record.where, "chosen")
        rejected = _messages(rejected, record.where, "rejected")
        if isinstance(prompt, str):
            turns = [_turn("user", prompt)]
        elif prompt is not None:
            turns = _messages(prompt, record.where, "prompt")
        else:
            same = _shared(chosen, rejected)
            turns, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
        if chosen[: len(turns)] == turns == rejected[: len(turns)]:  # whole conversations
            chosen, rejected = chosen[len(turns) :], rejected[len(turns) :]
        pair = Pair(turns, chosen, rejected, record.where)
    if pair.chosen == pair.rejected:
        raise DataError(f"{record.where}: chosen and rejected are equal: nothing is preferred.")
    if not pair.prompt or not pair.chosen or not pair.rejected:
        raise DataError(f"{record.where}: prompt, chosen or rejected is empty.")
    return pair


def _shared(better: list[Message], worse: list[Message]) -> int:
    n = 0
    while n < min(len(better), len(worse)) and better[n] == worse[n]:
        n += 1
    return n


def _turned(example: Example) -> Example:
    """Return prompt and answers that are text as turns of user and assistant."""
    if isinstance(example, Completion):
        turns = [_turn("user", example.prompt), _turn("assistant", example.completion)]
        return Chat(turns, example.where)
    if isinstance(example, Pair) and isinstance(example.prompt, str):
        chosen, rejected = str(example.chosen), str(example.rejected)
        return Pair(
            [_turn("user", example.prompt)],
            [_turn("assistant", chosen)],
            [_turn("assistant", rejected)],
            example.where,
        )
    return example


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _messages(given: Any, where: str, key: str) -> list[Message]:
    if not isinstance(given, list) or not given:
        raise DataError(f'{where}: {key!r} is no list of {{"role": ..., "content": ...}}.')
    found = []
    for number, message in enumerate(given):
        at = f"{where}: {key}[{number}]"
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise DataError(f'{at}: is no {{"role": ..., "content": ...}}.')
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise DataError(f"{at}: no role {role!r}" + suggest(str(role), ROLES))
        if not isinstance(content, str):
            raise DataError(f"{at}: the content of a turn is text; got {type(content).__name__}.")
        if not content.strip() and role in ("user", "assistant"):
            raise DataError(f"{at}: the {role}'s turn is empty; leave the record out.")
        found.append(_turn(role, content))
    return found


def _string(record: Record, key: str, *, empty: bool = False) -> str:
    value = record.content.get(key)
    if not isinstance(value, str):
        raise DataError(f"{record.where}: {key!r} is {str(value)[:40]!r}, not text.")
    if not value.strip() and not empty:
        raise DataError(f"{record.where}: {key!r} is empty.")
    return value


_MADE: dict[str, Callable[[Record], Example]] = {
    "text": _text,
    "text_only": _text,
    "text2text": lambda record: _completion(record, "input", "output"),
    "prompt_completion": _completion,
    "alpaca": _alpaca,
    "messages": _conversation,
    "conversation": _conversation,
    "preference": _preference,
    "paired_conversation": _preference,
}
