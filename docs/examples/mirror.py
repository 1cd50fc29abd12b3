"""A data source, as a plugin: say a list of symbols backwards."""

from typing import Annotated

import numpy as np
from pydantic import Field

from hymba_lab.data.draws import Ints
from hymba_lab.data.source import IGNORED, datasets
from hymba_lab.data.synthetic import Synthetic
from hymba_lab.errors import ConfigError

BLANK, MARKER, FIRST = 0, 1, 2


@datasets.register("mirror")
class Mirror(Synthetic):
    """n symbols (ids 2..vocab-1), a marker, then the symbols from the last to the first, scored.

    Blanks (0) fill the row in front. Chance: 1 / (vocab - 2).
    """

    def __init__(
        self,
        seq_len: int,
        *,
        rows: Annotated[int, Field(ge=1)],
        lengths: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = [4, 8],
        vocab: Annotated[int, Field(ge=4)] = 16,
        n_val: Annotated[int, Field(ge=1)] = 64,
    ) -> None:
        if 2 * max(lengths) > seq_len:
            raise ConfigError(f"lengths: {max(lengths)} symbols twice do not fit {seq_len} tokens.")
        super().__init__(
            "mirror",
            seq_len,
            rows=rows,
            vocab=vocab,
            groups=[f"length_{n}" for n in lengths],  # a metric for each
            options={"lengths": lengths, "vocab": vocab},  # part of the data's fingerprint
            n_val=n_val,
            val_seed=0,
        )
        self.lengths = list(lengths)
        self.reference = {"accuracy": 1 / (vocab - FIRST)}

    def draw(self, rng: np.random.Generator, group: int, rows: int) -> tuple[Ints, Ints]:
        """Return tokens and targets (rows, seq_len): position t predicts token t + 1."""
        n = self.lengths[group]
        symbols = rng.integers(FIRST, self.vocab, (rows, n))
        whole = np.full((rows, self.seq_len + 1), BLANK, dtype=np.int64)
        whole[:, -2 * n - 1 : -n - 1] = symbols
        whole[:, -n - 1] = MARKER
        whole[:, -n:] = symbols[:, ::-1]
        targets = np.full((rows, self.seq_len), IGNORED, dtype=np.int64)
        targets[:, -n:] = whole[:, -n:]
        return whole[:, :-1], targets
