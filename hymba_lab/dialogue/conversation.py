"""A history of turns, of which the newest that fit into the context are the prompt."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from hymba_lab.checkpoints.codec import Codec
from hymba_lab.dialogue.template import Message, Template
from hymba_lab.errors import UserError


class Prompt(NamedTuple):
    """What the model reads, and how many turns were left out."""

    ids: list[int]
    n_left_out: int


class Conversation:
    """System text and turns; a turn is what the user said and what was answered."""

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self.turns: list[Message] = []

    @property
    def messages(self) -> list[Message]:
        """System text (if any) and all turns."""
        head = [] if self.system is None else [{"role": "system", "content": self.system}]
        return head + self.turns

    def say(self, role: str, content: str) -> None:
        """Add what the `user` or the `assistant` says."""
        self.turns.append({"role": role, "content": content})

    def reset(self) -> None:
        """Forget all turns; the system text stays."""
        self.turns = []

    def prompt(self, template: Template, codec: Codec, room: int) -> Prompt:
        """Return at most `room` ids: the oldest turns are left out whole, the last never.

        What stands before the first turn, such as a file's own system text, stays.

        Raises `UserError` where the last message alone is too long.
        """
        starts = [i for i, turn in enumerate(self.turns) if turn["role"] == "user"] or [0]
        head = self.messages[: len(self.messages) - len(self.turns) + starts[0]]
        for n_left_out, start in enumerate(starts):
            text = template.render([*head, *self.turns[start:]])
            ids = codec.encode(text, special=False)
            if len(ids) <= room:
                return Prompt(ids, n_left_out)
        raise UserError(
            f"the message has {len(ids)} tokens with its template, {room} fit beside the answer; "
            "shorten it, or ask for a shorter answer (--max-new-tokens)."
        )


def pieces(
    steps: Iterable[int], codec: Codec, stops: list[str], whole: Callable[[str], None]
) -> Iterator[str]:
    """Yield an answer's text while its ids come; `whole` is given all of it at the end.

    A character waits until it is whole, and what may be the beginning of a stop text until it is
    known.
    """
    ids: list[int] = []
    shown = text = ""
    try:
        for token in steps:
            if token in codec.eos:
                break
            ids.append(token)
            text = codec.decode(ids)
            found = [text.index(stop) for stop in stops if stop in text]
            if found:
                text = text[: min(found)]
                break
            safe = text if not text.endswith("\N{REPLACEMENT CHARACTER}") else shown
            safe = safe[: len(safe) - _held(safe, stops)]
            if len(safe) > len(shown):
                yield safe[len(shown) :]
                shown = safe
        if len(text) > len(shown):
            yield text[len(shown) :]
    finally:
        whole(text)


def _held(text: str, stops: list[str]) -> int:
    """Return how many of the last characters may begin a stop text."""
    return max(
        (n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0
    )
