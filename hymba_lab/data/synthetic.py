"""What the recall tasks share: batches by difficulty, streams, fingerprint."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch

from hymba_lab.data.draws import Ints, generator
from hymba_lab.data.source import Batch, digest
from hymba_lab.errors import ConfigError

DRAWN = 16  # validation rows of a difficulty, from one generator: part of what the rows are


class Synthetic(ABC):
    """A task drawn from a random generator; a subclass says how one difficulty is drawn.

    Every training batch holds equal shares of all difficulties, in order. Validation holds `n_val`
    rows of each. The streams of training and validation are disjoint: the seed of a run and
    `val_seed` go into different domains, and so does every change of an option.
    """

    scored: Literal["accuracy", "loss"] = "accuracy"
    bytes_per_token: float | None = None

    def __init__(
        self,
        name: str,
        seq_len: int,
        *,
        rows: int,
        vocab: int,
        groups: Sequence[str],
        options: dict[str, object],
        n_val: int,
        val_seed: int,
    ) -> None:
        """Take `name` and `options` as all that determines the distribution of a row.

        Raises ConfigError when the rows cannot be shared equally or a difficulty comes twice.
        """
        if not groups or len(set(groups)) < len(groups):
            raise ConfigError(
                f"{name}: difficulties {list(groups)} must be at least one, none twice"
            )
        if rows % len(groups):
            raise ConfigError(
                f"{name}: {rows} rows cannot be shared equally by {len(groups)} difficulties; "
                f"make rows a multiple of {len(groups)}"
            )
        self.seq_len = seq_len
        self.rows = rows
        self.vocab = vocab
        self.groups = tuple(groups)
        self.n_val = n_val
        self.val_seed = val_seed
        self.reference: dict[str, float] = {}
        kind = digest(name, seq_len, options)
        self.fingerprint = digest(kind, n_val, val_seed)
        self._train, self._val = f"{name}/train/{kind}", f"{name}/val/{kind}"

    @abstractmethod
    def draw(self, rng: np.random.Generator, group: int, rows: int) -> tuple[Ints, Ints]:
        """Return tokens and targets, both (rows, seq_len), of one difficulty."""

    def train_batch(self, seed: int, step: int) -> Batch:
        """Return `rows` sequences, equal shares of all difficulties."""
        rng = generator(self._train, seed, step)
        return self._as_batch(*self._drawn(rng, self.rows // len(self.groups)))

    def val_batches(self) -> Iterator[Batch]:
        """Yield the `n_val` rows of every difficulty, about `rows` at a time.

        They are drawn so many at a time whatever `rows` is, and so they are the same rows.
        """
        draws = [
            self._drawn(generator(self._val, self.val_seed, number), min(DRAWN, self.n_val - start))
            for number, start in enumerate(range(0, self.n_val, DRAWN))
        ]
        tokens, targets = (np.concatenate(part, axis=1) for part in zip(*draws, strict=True))
        share = self.rows // len(self.groups)
        for start in range(0, self.n_val, share):
            part = slice(start, start + share)
            yield self._as_batch(tokens[:, part], targets[:, part])

    def _drawn(self, rng: np.random.Generator, share: int) -> tuple[Ints, Ints]:
        """Return tokens and targets, both (difficulties, share, seq_len)."""
        drawn = [self.draw(rng, group, share) for group in range(len(self.groups))]
        tokens, targets = (np.stack(part) for part in zip(*drawn, strict=True))
        return tokens, targets

    def _as_batch(self, tokens: Ints, targets: Ints) -> Batch:
        group = torch.arange(len(self.groups)).repeat_interleave(tokens.shape[1])
        inputs, wanted = (
            torch.from_numpy(part.reshape(-1, self.seq_len)) for part in (tokens, targets)
        )
        return Batch(inputs, wanted, group)
