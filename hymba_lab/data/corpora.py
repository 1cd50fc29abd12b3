"""Tokenized corpora of one vocabulary, mixed by weights that may change on the way."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from hymba_lab.data.chain import TokenChain
from hymba_lab.data.draws import Ints
from hymba_lab.data.given import GivenTokenizer
from hymba_lab.data.index import TokenIndex, read_index, tokenizer_of
from hymba_lab.data.order import Shares, drawn, phases_of, shuffled
from hymba_lab.data.shard_file import sha256_of
from hymba_lab.data.source import Batch, datasets, digest
from hymba_lab.errors import ConfigError, DataError
from hymba_lab.registry import FROM_FILE, Section, at

Label = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[int, Field(ge=1, le=2**31)]


class CorpusOptions(Section):
    """One corpus: the folder that `hymba-lab tokenize` wrote, and its share of the rows."""

    folder: Annotated[str, FROM_FILE]
    weight: Weight = 1.0


class Anneal(Section):
    """From a share of the steps on, other weights: a corpus that is not named has none."""

    start: Annotated[float, Field(gt=0, lt=1)]
    weights: Annotated[dict[Label, Weight], Field(min_length=1)]


@datasets.register("corpora")
class Corpora:
    """Windows of seq_len + 1 tokens of several corpora, in an order without a state.

    Row r of step s is a function of (seed, s, r): the weights give it a corpus and a number
    (`order.Shares`); the number a window. An epoch of a corpus is a permutation of its windows, so
    no token is a target twice before all were (but for the last few, fewer than a window);
    `replacement: true` draws windows at any place instead. Validation is per corpus, `n_val`
    windows of each, evenly spread. `borders: true` gives the batch the starts of its documents:
    the end-of-text token that stands before each, from which nothing earlier is seen.
    """

    scored: Literal["accuracy", "loss"] = "loss"

    def __init__(
        self,
        seq_len: int,
        *,
        rows: Positive,
        corpora: Annotated[dict[Label, CorpusOptions], Field(min_length=1)],
        anneal: list[Anneal] | None = None,
        replacement: bool = False,
        borders: bool = False,
        tokenizer_file: Annotated[str | None, FROM_FILE] = None,
        n_val: Positive = 128,
    ) -> None:
        """`tokenizer_file`, where given, must be the one that made the tokens: the experiment's."""
        self.seq_len, self.rows = seq_len, rows
        self.replacement, self.borders = replacement, borders
        self.groups = tuple(corpora)
        self.anneal = list(anneal or [])
        self.weights = {label: options.weight for label, options in corpora.items()}
        self._check_weights()
        self.indexes = {label: _opened(label, options) for label, options in corpora.items()}
        first = self._agreed(tokenizer_file)
        self.vocab, self.end_of_text = first.vocab, first.end_of_text
        self.vocabulary = first.tokenizer
        self.train = [index.chain("train") for index in self.indexes.values()]
        self.val = [index.chain("val") for index in self.indexes.values()]
        self._check_lengths()
        self._n_val = [min(n_val, (len(part) - 1) // seq_len) for part in self.val]
        each = [index.bytes_per_token("val") for index in self.indexes.values()]
        self.group_bytes_per_token = tuple(each)
        self.bytes_per_token: float | None = float(np.average(each, weights=self._n_val))
        entropies = [index.entropy for index in self.indexes.values()]
        self.reference = {"loss": float(np.average(entropies, weights=self._n_val))}
        contents = [[label, index.fingerprint] for label, index in self.indexes.items()]
        self.fingerprint = digest("corpora", contents, seq_len, n_val, borders)
        self._domains = [
            f"corpora/{label}/{index.fingerprint}/{seq_len}"
            for label, index in self.indexes.items()
        ]
        self._shares = Shares(rows, phases_of(self.weights, []))

    @cached_property
    def tokenizer(self) -> GivenTokenizer:
        """The tokenizer, to read ids back as text."""
        first = next(iter(self.indexes.values()))
        return tokenizer_of(first)

    def begin(self, n_steps: int) -> None:
        """Say how long the run is, which is what the starts of `anneal` are shares of.

        Until then the weights are those of the beginning.
        """
        later = [(round(phase.start * n_steps), phase.weights) for phase in self.anneal]
        self._shares = Shares(self.rows, phases_of(self.weights, later))

    def train_batch(self, seed: int, step: int) -> Batch:
        """Return the `rows` windows of a step, those of one corpus after those of another."""
        before, after = self._shares.before(step), self._shares.before(step + 1)
        parts = [
            (group, self._starts(group, seed, np.arange(first, last)))
            for group, (first, last) in enumerate(zip(before, after, strict=True))
            if last > first
        ]
        return self._batch([(group, self.train[group], starts) for group, starts in parts])

    def val_batches(self) -> Iterator[Batch]:
        """Yield evenly spaced windows of each corpus's validation part that do not overlap."""
        for group, (part, n) in enumerate(zip(self.val, self._n_val, strict=True)):
            starts = np.linspace(0, len(part) - self.seq_len - 1, n).astype(np.int64)
            for first in range(0, n, self.rows):
                yield self._batch([(group, part, starts[first : first + self.rows])])

    def repeats(self, n_steps: int) -> dict[str, float]:
        """Return how many times a run of `n_steps` reads each corpus."""
        self.begin(n_steps)
        return {
            label: n / self._n_windows(group)
            for group, (label, n) in enumerate(
                zip(self.groups, self._shares.before(n_steps), strict=True)
            )
        }

    def _n_windows(self, group: int) -> int:
        return (len(self.train[group]) - 1) // self.seq_len

    def _starts(self, group: int, seed: int, numbers: Ints) -> Ints:
        domain = self._domains[group]
        if self.replacement:
            return drawn(domain, seed, len(self.train[group]) - self.seq_len, numbers)
        return shuffled(domain, seed, self._n_windows(group), numbers) * self.seq_len

    def _batch(self, parts: Sequence[tuple[int, TokenChain, Ints]]) -> Batch:
        windows = np.concatenate([
            tokens.windows(starts, self.seq_len + 1) for _, tokens, starts in parts
        ])  # fmt: skip
        if windows.max() >= self.vocab:
            raise DataError(
                f"corpora: an id of {windows.max()} where {self.vocab} are known; a shard was "
                "changed: hymba-lab tokenize --verify FOLDER finds it"
            )
        group = np.repeat([group for group, _, _ in parts], [len(starts) for *_, starts in parts])
        ids = torch.from_numpy(windows)
        tokens = ids[:, :-1].contiguous()
        starts = tokens == self.end_of_text if self.borders else None
        return Batch(tokens, ids[:, 1:].contiguous(), torch.from_numpy(group), starts)

    def _check_weights(self) -> None:
        given: list[tuple[str, Mapping[str, float]]] = [("corpora", self.weights)]
        given += [(f"anneal[{n}].weights", part.weights) for n, part in enumerate(self.anneal)]
        for where, weights in given:
            if unknown := set(weights) - set(self.weights):
                raise ConfigError(
                    f"corpora: {where}: no corpus {min(unknown)!r}; there are "
                    f"{', '.join(self.weights)}"
                )
            if not sum(weights.values()):
                raise ConfigError(f"corpora: {where}: all weights are 0; give one of them more")
        starts = [part.start for part in self.anneal]
        if starts != sorted(set(starts)):
            raise ConfigError(
                f"corpora: anneal: the starts {starts} do not rise; put them in order"
            )

    def _agreed(self, tokenizer: str | None) -> TokenIndex:
        """Return one index after a check that all have one tokenizer."""
        label, first = next(iter(self.indexes.items()))
        for other, index in self.indexes.items():
            if index.tokenizer != first.tokenizer or index.end_of_text != first.end_of_text:
                raise ConfigError(
                    f"corpora: {other} ({index.folder}) has another tokenizer than {label} "
                    f"({first.folder}); tokenize both with one tokenizer.json"
                )
        if tokenizer is not None and _hash(tokenizer) != first.tokenizer:
            raise ConfigError(
                f"corpora: {label} ({first.folder}) was not made with {tokenizer}; give the "
                f"tokenizer.json of that folder, or tokenize again"
            )
        return first

    def _check_lengths(self) -> None:
        for name, parts in (("training", self.train), ("validation", self.val)):
            for label, part in zip(self.groups, parts, strict=True):
                if len(part) <= self.seq_len:
                    raise DataError(
                        f"corpora: {label}: the {name} part has {len(part)} tokens, one window "
                        f"takes {self.seq_len + 1} (seq_len + 1); give more text or a smaller "
                        "training.seq_len"
                    )


def _opened(label: str, options: CorpusOptions) -> TokenIndex:
    try:
        return read_index(Path(options.folder))
    except DataError as error:
        raise DataError(f"{at(options.folder)}corpora.{label}: {error}") from None


def _hash(file: str) -> str:
    try:
        return sha256_of(Path(file))
    except OSError as error:
        raise ConfigError(f"tokenizer: {file}: cannot be read: {error.strerror}") from None
