"""Training data: what a source is, and several sources as rows of one batch.

A run trains on every source named under `data:` at once. Each source numbers its own tokens from
0; `Mixture` moves them side by side into one vocabulary, so that no id means two things.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from hymba_lab.errors import ConfigError, DataError
from hymba_lab.registry import Registry, Spec

datasets: Registry["Source"] = Registry("data")

IGNORED = -100
"""Target where nothing is scored; `torch.nn.functional.cross_entropy` skips it by default."""


class Batch(NamedTuple):
    """B sequences of T tokens."""

    tokens: Tensor
    """(B, T) int64, ids in 0..vocab-1."""
    targets: Tensor
    """(B, T) int64: the token to predict at that position (already shifted), -100 = not scored."""
    group: Tensor
    """(B,) int64: the row's difficulty, an index into `Source.groups`."""
    starts: Tensor | None = None
    """(B, T) bool: where a document begins, from which nothing earlier is seen; None = nowhere."""


class Source(Protocol):
    """One kind of data, made by an entry of `datasets`: `(seq_len, *, rows, ...)`."""

    rows: int
    """Sequences per training step."""
    vocab: int
    """Ids are 0..vocab-1."""
    groups: tuple[str, ...]
    """Names of the difficulties, `("all",)` where there is one."""
    fingerprint: str
    """sha256 (hex) over all that determines which sequences exist; `rows` does not."""
    scored: Literal["accuracy", "loss"]
    """Recall tasks report accuracy and loss; text reports loss and bits per byte."""
    bytes_per_token: float | None
    """Mean bytes per validation token; None where tokens stand for no bytes."""
    reference: dict[str, float]
    """What an uninformed predictor reaches: `accuracy` (chance) or `loss` [nats per token]."""

    def train_batch(self, seed: int, step: int) -> Batch:
        """Return `rows` sequences, a pure function of `(seed, step)`."""
        ...

    def val_batches(self) -> Iterator[Batch]:
        """Yield the fixed validation set, the same for every seed and model."""
        ...


class Mixture:
    """Several sources as one: rows concatenated, ids side by side in one vocabulary.

    Source number i owns the ids `offset_i .. offset_i + vocab_i - 1` with
    `offset_i = vocab_0 + ... + vocab_{i-1}`, in the order of the mapping. Sources that name one
    `vocabulary` (the sha256 of a tokenizer.json) are at one offset and counted once.

    Attributes: `sources`, `parts` (label -> rows of the training batch), `offsets`, `vocab`,
    `rows`, `fingerprint` (sha256 over labels and fingerprints, in order).
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        if not sources:
            raise ConfigError(
                "data: no source given; name at least one, such as recall: {name: mqar}"
            )
        self.sources = dict(sources)
        self.parts: dict[str, slice] = {}
        self.offsets: dict[str, int] = {}
        self.rows = 0
        self.vocab = 0
        shared: dict[str | None, int] = {}
        for label, source in self.sources.items():
            self.parts[label] = slice(self.rows, self.rows + source.rows)
            self.rows += source.rows
            vocabulary: str | None = getattr(source, "vocabulary", None)
            self.offsets[label] = shared.get(vocabulary, self.vocab)
            if vocabulary not in shared:
                self.vocab += source.vocab
            if vocabulary is not None:
                shared[vocabulary] = self.offsets[label]
        self.fingerprint = digest(
            "mixture", [[label, source.fingerprint] for label, source in self.sources.items()]
        )

    def begin(self, n_steps: int) -> None:
        """Tell sources that change on the way (those with `begin`) how long the run is."""
        for source in self.sources.values():
            if begin := getattr(source, "begin", None):
                begin(n_steps)

    def train_batch(self, seed: int, step: int) -> Batch:
        """Return (rows, T) tokens of all sources; `parts[label]` are the rows of one of them.

        `group` stays an index into the groups of the row's own source.
        """
        batches = [
            _shifted(source.train_batch(seed, step), self.offsets[label])
            for label, source in self.sources.items()
        ]
        return batches[0] if len(batches) == 1 else _joined(batches)

    def val_batches(self) -> Iterator[tuple[str, Batch]]:
        """Yield `(label, batch)` over the validation sets of all sources, ids shifted alike."""
        for label, source in self.sources.items():
            for batch in source.val_batches():
                yield label, _shifted(batch, self.offsets[label])


def build_sources(specs: Mapping[str, Spec], seq_len: int, n_steps: int | None = None) -> Mixture:
    """Return the mixture that `config.data` describes, every source with `seq_len` tokens a row.

    `n_steps` is the length of the run, for sources that change on the way.
    """
    mixture = Mixture({label: _built(label, spec, seq_len) for label, spec in specs.items()})
    if n_steps is not None:
        mixture.begin(n_steps)
    return mixture


def _built(label: str, spec: Spec, seq_len: int) -> Source:
    try:
        return datasets.build(spec, seq_len)
    except (ConfigError, DataError) as error:
        error.path = f"data.{label}"
        raise


def digest(*parts: object) -> str:
    """Return the sha256 (hex) of plain JSON values in canonical form."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _shifted(batch: Batch, offset: int) -> Batch:
    if offset == 0:
        return batch
    targets = batch.targets.where(batch.targets == IGNORED, batch.targets + offset)
    return batch._replace(tokens=batch.tokens + offset, targets=targets)


def _joined(batches: Sequence[Batch]) -> Batch:
    starts: Tensor | None = None
    if any(batch.starts is not None for batch in batches):
        starts = torch.cat([
            torch.zeros_like(batch.tokens, dtype=torch.bool)
            if batch.starts is None
            else batch.starts
            for batch in batches
        ])  # fmt: skip
    return Batch(
        torch.cat([batch.tokens for batch in batches]),
        torch.cat([batch.targets for batch in batches]),
        torch.cat([batch.group for batch in batches]),
        starts,
    )
