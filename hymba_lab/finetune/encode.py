"""Examples to ids with labels: what is read, and which of it is learned."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from hymba_lab.checkpoints.codec import whole_text
from hymba_lab.errors import DataError, UserError
from hymba_lab.finetune.examples import Chat, Completion, Example, Message, Pair, Text
from hymba_lab.finetune.template import Span, TrainedTemplate

IGNORED = -100
"""The label of a token that is read and not learned."""


class Labelled(NamedTuple):
    """A row for SFT: ids, and labels that are ids or `IGNORED`."""

    ids: list[int]
    labels: list[int]


class PairIds(NamedTuple):
    """A pair for DPO; the answers go on where the prompt ends."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


@dataclass
class Encoder:
    """Encodes examples, counting what is cut and dropped; raises `DataError` for what cannot be."""

    tokenizer: Any
    template: TrainedTemplate | None
    longest: int | None
    """Tokens of an example; None = any number, since rows are wrapped."""
    too_long: Literal["refuse", "cut", "drop"] = "refuse"
    everything: bool = False
    """Prompts are learned, too."""
    n_cut: int = field(default=0, init=False)
    n_dropped: int = field(default=0, init=False)

    def labelled(self, examples: Iterable[Example]) -> Iterator[Labelled]:
        """Yield a row for each example that fits."""
        for example in examples:
            if isinstance(example, Pair):
                raise DataError(
                    f"{example.where}: a preference pair; those are for DPO: `hymba-lab finetune "
                    "dpo`, or a stage dpo."
                )
            row = self._fitting(self._row(example), example.where)
            if row is not None:
                yield row

    def pairs(self, examples: Iterable[Example]) -> Iterator[PairIds]:
        """Yield the ids of each pair that fits."""
        for example in examples:
            if not isinstance(example, Pair):
                raise DataError(
                    f"{example.where}: DPO needs prompt, chosen and rejected; other formats are "
                    "for SFT: `hymba-lab finetune sft`, or a stage sft."
                )
            pair = self._pair_that_fits(self._pair(example), example.where)
            if pair is not None:
                yield pair

    def _row(self, example: Text | Completion | Chat) -> Labelled:
        if isinstance(example, Text):
            ids, _ = self._ids(example.text, special=True)
            ids = self._ended(ids)
            return Labelled(ids, list(ids))
        if isinstance(example, Completion):
            text, special = example.prompt + example.completion, True
            answers = [(len(example.prompt), len(text))]
        else:
            rendered = self._template(example.where).rendered(
                example.messages, example.where, example.n_given
            )
            text, answers, special = rendered.text, rendered.answers, False
        ids, places = self._ids(text, special=special)
        scored = _inside(places, answers)
        if not any(scored):
            raise DataError(f"{example.where}: no token is learned: all labels are hidden.")
        n_ids, ids = len(ids), self._ended(ids, text)
        scored += [True] * (len(ids) - n_ids)
        if self.everything:
            return Labelled(ids, list(ids))
        return Labelled(ids, [i if yes else IGNORED for i, yes in zip(ids, scored, strict=True)])

    def _fitting(self, row: Labelled, where: str) -> Labelled | None:
        if self.longest is None or len(row.ids) <= self.longest:
            return row
        self._refuse(len(row.ids), where)
        cut = Labelled(row.ids[: self.longest], row.labels[: self.longest])
        if self.too_long == "drop" or all(label == IGNORED for label in cut.labels):
            self.n_dropped += 1
            return None
        self.n_cut += 1
        return cut

    def _pair(self, example: Pair) -> PairIds:
        """Encode prompt and answer together: a token may reach over the place where they meet."""
        texts = [self._told(example, answer) for answer in (example.chosen, example.rejected)]
        prompt = self._prompt(example)
        special = isinstance(example.prompt, str)
        asked, _ = self._ids(prompt, special=special)
        better, worse = (self._ended(self._ids(t, special=special)[0], t) for t in texts)
        n = min(_shared(asked, better), _shared(asked, worse))
        if not all(text.startswith(prompt) for text in texts):
            raise UserError(
                f"{example.where}: the template renders the prompt in another way with an answer "
                "behind it; use one that keeps what went before."
            )
        return PairIds(asked[:n], better[n:], worse[n:])

    def _pair_that_fits(self, pair: PairIds, where: str) -> PairIds | None:
        n_tokens = len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
        if pair.chosen == pair.rejected:
            raise DataError(f"{where}: chosen and rejected are the same tokens.")
        if self.longest is None or n_tokens <= self.longest:
            return pair
        self._refuse(n_tokens, where)
        room = max(0, self.longest - len(pair.prompt))
        cut = PairIds(pair.prompt, pair.chosen[:room], pair.rejected[:room])
        if self.too_long == "drop" or cut.chosen == cut.rejected:
            self.n_dropped += 1
            return None
        self.n_cut += 1
        return cut

    def _refuse(self, n_tokens: int, where: str) -> None:
        if self.too_long == "refuse":
            raise DataError(
                f"{where}: has {n_tokens} tokens, seq_len allows {self.longest}; raise it, or set "
                "data.too_long to cut or drop."
            )

    def _told(self, example: Pair, answer: str | list[Message]) -> str:
        if isinstance(example.prompt, str):
            return example.prompt + str(answer)
        turns = [*example.prompt, *(answer if isinstance(answer, list) else [])]
        return self._template(example.where).whole(turns, example.where)

    def _prompt(self, example: Pair) -> str:
        if isinstance(example.prompt, str):
            return example.prompt
        return self._template(example.where).prompt(example.prompt, example.where)

    def _template(self, where: str) -> TrainedTemplate:
        if self.template is None:
            raise UserError(
                f"{where}: a conversation, and the model has no chat template; set template to "
                "plain, or to a FILE.jinja."
            )
        return self.template

    def _ids(self, text: str, *, special: bool) -> tuple[list[int], list[Span]]:
        text = whole_text(text)
        found = self.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        return list(found["input_ids"]), found["offset_mapping"]

    def _ended(self, ids: list[int], text: str = "") -> list[int]:
        """Return ids that end with the end of text, which is what stops an answer."""
        end = self.tokenizer.eos_token_id
        if ids[-1:] == [end] or text.rstrip().endswith(self.tokenizer.eos_token):
            return ids
        return [*ids, end]


def _inside(places: list[Span], spans: list[Span]) -> list[bool]:
    """Return for every token whether it reaches into one of the spans, which are in order."""
    starts = [start for start, _ in spans]
    scored = []
    for start, end in places:
        i = bisect_right(starts, max(start, end - 1)) - 1
        scored.append(end > start and i >= 0 and start < spans[i][1])
    return scored


def _shared(one: list[int], other: list[int]) -> int:
    n = 0
    while n < min(len(one), len(other)) and one[n] == other[n]:
        n += 1
    return n
