"""Log-likelihoods of texts in batches: what several texts begin with is read once.

The choices of a question share its context, and with it most of their tokens. A batch takes whole
questions of about equal length, reads the beginnings that they all have, and goes on from there
with every choice as a row of its own: rows of about equal length together, padding behind.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hymba_lab.errors import UserError
from hymba_lab.model import LanguageModel
from hymba_lab.model.cache import Cache

_WORTH = 512  # tokens that reading once must save a batch: below, a second call costs as much
_POSITIONS = 2048  # scored at once: bounds the memory of their logits

Row = tuple[int, ...]


class Request(NamedTuple):
    """A text of which the end is scored."""

    context: list[int]
    """Ids before it, at least one."""
    continuation: list[int]
    """Ids that are scored, at least one."""


class Score(NamedTuple):
    """What one request is answered with."""

    log_likelihood: float
    """Sum of log p over the continuation [nats]."""
    greedy: bool
    """Whether each of its ids is the likeliest."""


class Question(NamedTuple):
    """Inputs that begin alike, and the requests that each of them answers."""

    n_shared: int
    """Tokens that all of them begin with, none of which predicts a scored one."""
    answers: dict[Row, list[int]]


class Asked(NamedTuple):
    """One row of a batch: which question it is of, its ids, the requests that it answers."""

    question: int
    ids: Row
    numbers: list[int]


class Read(NamedTuple):
    """What was read of a batch's questions: the first `n_shared` tokens of each."""

    cache: Cache
    n_shared: int
    n_tokens: int
    """Of the longest row."""


@torch.no_grad()
def score(
    model: LanguageModel,
    requests: Sequence[Request],
    *,
    n_rows: int,
    max_length: int,
    done: Callable[[int], None] = lambda n: None,
) -> list[Score]:
    """Return the score of every request, in order.

    A text longer than `max_length` + 1 tokens loses its beginning. Requests that differ in their
    last token only are one row. `done` is told how many requests each batch has answered.

    Raises `UserError` for a continuation that does not fit.
    """
    scores: dict[int, Score] = {}
    for batch in _batches(_questions(requests, max_length), 2 * n_rows):
        read = _read(model, batch)
        for part in _alike(batch, max(1, n_rows // 2)):
            features, start = _features(model, part, read)
            asked = [
                (i, b, len(row.ids) - start) for b, row in enumerate(part) for i in row.numbers
            ]
            for i, answer in _answers(model, features, requests, asked):
                scores[i] = answer
            done(len(asked))
    return [scores[i] for i in range(len(requests))]


def _questions(requests: Sequence[Request], max_length: int) -> list[Question]:
    """Return the requests by context, those with the longest first."""
    found: dict[Row, dict[Row, list[int]]] = {}
    for i, (context, continuation) in enumerate(requests):
        if len(continuation) > max_length:
            raise UserError(
                f"a continuation has {len(continuation)} tokens, the longest text {max_length}; "
                "give a larger --max-length, if the model's positions allow it."
            )
        row = tuple((context + continuation)[-(max_length + 1) : -1])
        shared = row[: len(row) - len(continuation)]  # less its last, which predicts
        found.setdefault(shared, {}).setdefault(row, []).append(i)
    questions = [Question(len(shared), answers) for shared, answers in found.items()]
    return sorted(questions, key=lambda q: (-q.n_shared, -max(map(len, q.answers))))


def _batches(questions: list[Question], n_rows: int) -> Iterator[list[Question]]:
    """Yield whole questions of `n_rows` rows together, or one that has more."""
    batch: list[Question] = []
    for question in questions:
        if batch and sum(len(q.answers) for q in batch) + len(question.answers) > n_rows:
            yield batch
            batch = []
        batch.append(question)
    if batch:
        yield batch


def _alike(batch: list[Question], n_rows: int) -> Iterator[list[Asked]]:
    """Yield the rows of a batch, `n_rows` at a time, those of about equal length together."""
    rows = [
        Asked(number, ids, numbers)
        for number, question in enumerate(batch)
        for ids, numbers in question.answers.items()
    ]
    rows.sort(key=lambda row: -len(row.ids))
    for first in range(0, len(rows), n_rows):
        yield rows[first : first + n_rows]


def _read(model: LanguageModel, batch: list[Question]) -> Read | None:
    """Return the beginnings that all questions of a batch have; None where that saves nothing."""
    rows = [row for question in batch for row in question.answers]
    shared = min(question.n_shared for question in batch)
    if not shared or shared * (len(rows) - len(batch)) < _WORTH:
        return None
    n_tokens = max(map(len, rows))
    cache = model.cache(len(batch), n_tokens)
    firsts = [next(iter(question.answers))[:shared] for question in batch]
    model.features(_padded(model, firsts), cache)
    return Read(cache, shared, n_tokens)


def _features(model: LanguageModel, part: list[Asked], read: Read | None) -> tuple[Tensor, int]:
    """Return features (rows, T, D) of all rows' tokens from `start` on."""
    if read is None:
        return model.features(_padded(model, [row.ids for row in part])), 0
    cache = model.cache(len(part), read.n_tokens)
    cache.take_over(read.cache, torch.tensor([row.question for row in part]))
    rest = [row.ids[read.n_shared :] for row in part]
    sizes = torch.tensor([*map(len, rest)])
    return model.features(_padded(model, rest), cache, sizes), read.n_shared


def _padded(model: LanguageModel, rows: Sequence[Row]) -> Tensor:
    longest = max(map(len, rows))
    ids = torch.tensor([row + (0,) * (longest - len(row)) for row in rows])
    return ids.to(model.embedding.weight.device)


def _answers(
    model: LanguageModel,
    features: Tensor,
    requests: Sequence[Request],
    asked: list[tuple[int, int, int]],
) -> Iterator[tuple[int, Score]]:
    """Yield the scores of requests (number, row, where the row ends); only ends get logits."""
    sizes = [len(requests[i].continuation) for i, *_ in asked]
    places = [
        (b, end - n + k) for (_, b, end), n in zip(asked, sizes, strict=True) for k in range(n)
    ]
    rows, columns = torch.tensor(places, device=features.device).unbind(1)
    wanted = torch.tensor(
        [token for i, *_ in asked for token in requests[i].continuation], device=features.device
    )
    log_p, likeliest = [], []
    for first in range(0, len(places), _POSITIONS):
        part = slice(first, first + _POSITIONS)
        logits = model.logits(features[rows[part], columns[part]]).double()
        chosen = logits.gather(1, wanted[part][:, None])[:, 0]
        log_p.append(chosen - logits.logsumexp(1))
        likeliest.append(logits.argmax(1) == wanted[part])
    values, right = (torch.split(torch.cat(parts), sizes) for parts in (log_p, likeliest))
    for (i, *_), value, hit in zip(asked, values, right, strict=True):
        yield i, Score(value.sum().item(), bool(hit.all()))
