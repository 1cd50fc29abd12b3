"""The batch of a step in parts: the rows of one rank, a few at a time.

Every part weighs its scored positions by the counts of the whole batch, so that the gradients of
all parts of all ranks add up to those of the batch in one piece. Row i of a source belongs to rank
i mod R: which rows a step reads depends neither on the ranks nor on the size of the parts.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hymba_lab.data.source import IGNORED, Batch, Mixture
from hymba_lab.errors import ConfigError, DataError
from hymba_lab.training.scoring import Scored, pick


class Part(NamedTuple):
    """Some rows of a batch, and how many of their positions each label scores."""

    scored: Scored
    counts: list[int]


Step = tuple[list[Part], list[int]]
"""The parts that one rank computes, and the scored positions of each label in the whole batch."""


class TrainParts(Iterable[Step]):
    """The batches of some steps as rank `rank` of `n_ranks` computes them; holds no other state.

    `micro_rows` is the most rows of a part, None all of the rank's. Every rank makes the same
    number of parts, for ranks wait for each other in each of them.
    """

    def __init__(
        self,
        mixture: Mixture,
        seed: int,
        steps: range,
        *,
        rank: int = 0,
        n_ranks: int = 1,
        micro_rows: int | None = None,
    ) -> None:
        """Raises `ConfigError` where a rank would have no row."""
        self.mixture, self.seed, self.steps = mixture, seed, steps
        self._parts = list(mixture.parts.values())
        self._rows = rows_of_rank(self._parts, rank, n_ranks)
        if any(not len(rows_of_rank(self._parts, r, n_ranks)) for r in (rank, n_ranks - 1)):
            raise ConfigError(
                f"{n_ranks} devices share {mixture.rows} rows a step and one of them would have "
                "none; take fewer devices or more rows.",
                "training.devices",
            )
        most = sum(-(-(part.stop - part.start) // n_ranks) for part in self._parts)
        self._n_parts = -(-most // micro_rows) if micro_rows else 1

    def __iter__(self) -> Iterator[Step]:
        """Yield the steps; raises `DataError` for a batch in which a label scores nothing."""
        for step in self.steps:
            batch = self.mixture.train_batch(self.seed, step)
            whole = counts_by_label(batch.targets, self._parts)
            if 0 in whole:
                label = list(self.mixture.parts)[whole.index(0)]
                raise DataError(
                    f"data.{label}: nothing is scored in the batch of step {step}, seed "
                    f"{self.seed}; a source must score at least one position of every batch."
                )
            split = self._rows.tensor_split(self._n_parts)
            yield [self._part(batch, rows) for rows in split], whole

    def _part(self, batch: Batch, rows: Tensor) -> Part:
        chosen = some_rows(batch, rows if len(rows) else self._rows[:1])
        if not len(rows):  # a row that scores nothing takes part in what all ranks do together
            chosen = chosen._replace(targets=torch.full_like(chosen.targets, IGNORED))
        scored = (chosen.targets != IGNORED).sum(1)
        labels = [(rows >= part.start) & (rows < part.stop) for part in self._parts]
        counts = [int(scored[inside].sum()) if len(rows) else 0 for inside in labels]
        return Part(pick(chosen), counts)


def rows_of_rank(parts: list[slice], rank: int, n_ranks: int) -> Tensor:
    """Return the rows of a batch that one rank computes: of every label, each R-th."""
    rows = [row for part in parts for row in range(part.start + rank, part.stop, n_ranks)]
    return torch.tensor(rows, dtype=torch.long)


def counts_by_label(targets: Tensor, parts: list[slice]) -> list[int]:
    """Return how many positions of targets (B, T) each label scores."""
    return [int((targets[rows] != IGNORED).sum()) for rows in parts]


def some_rows(batch: Batch, rows: Tensor | slice) -> Batch:
    """Return the batch of these rows of a batch."""
    starts = None if batch.starts is None else batch.starts[rows]
    return Batch(batch.tokens[rows], batch.targets[rows], batch.group[rows], starts)
