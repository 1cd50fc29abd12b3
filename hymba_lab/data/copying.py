"""Selective copying: remember some tokens, ignore the others, repeat in order."""

from typing import Annotated

import numpy as np
from pydantic import Field

from hymba_lab.data.draws import Ints, choose
from hymba_lab.data.source import IGNORED, datasets
from hymba_lab.data.synthetic import Synthetic
from hymba_lab.errors import ConfigError

NOISE, MARKER, FIRST = 0, 1, 2


@datasets.register("selective_copying")
class SelectiveCopying(Synthetic):
    """Data tokens among noise, then n markers: at marker i predict data token i.

    The first T - n positions hold n data tokens (uniform ids 2..vocab-1, repeats allowed) at random
    places, noise (0) elsewhere; the last n positions hold the marker (1) and are scored. The gaps
    vary, so counting positions does not help: what to keep depends on the content.
    Chance: 1 / (vocab - 2).
    Source: Gu and Dao 2023, "Mamba", arXiv:2312.00752, section 4.1.1 (16 data tokens, vocab 16,
    T = 4096).
    """

    def __init__(
        self,
        seq_len: int,
        *,
        rows: Annotated[int, Field(ge=1, le=2**31)],
        n_data: Annotated[list[Annotated[int, Field(ge=1, le=2**31)]], Field(min_length=1)],
        vocab: Annotated[int, Field(ge=4, le=2**24)] = 16,
        n_val: Annotated[int, Field(ge=1, le=2**31)] = 256,
        val_seed: int = 0,
    ) -> None:
        if 2 * max(n_data) > seq_len:
            raise ConfigError(
                f"n_data: {max(n_data)} tokens and their copies need {2 * max(n_data)} positions, "
                f"seq_len is {seq_len}; use at most {seq_len // 2}"
            )
        super().__init__(
            "selective_copying",
            seq_len,
            rows=rows,
            vocab=vocab,
            groups=[f"data_{n}" for n in n_data],
            options={"n_data": n_data, "vocab": vocab},
            n_val=n_val,
            val_seed=val_seed,
        )
        self.n_data = list(n_data)
        self.reference = {"accuracy": 1 / (vocab - FIRST)}

    def draw(self, rng: np.random.Generator, group: int, rows: int) -> tuple[Ints, Ints]:
        """Return tokens and targets of `rows` rows with `n_data[group]` data tokens each."""
        n = self.n_data[group]
        data = rng.integers(FIRST, self.vocab, (rows, n))
        places = np.sort(choose(rng, rows, self.seq_len - n, n), axis=1)
        tokens = np.full((rows, self.seq_len), NOISE, dtype=np.int64)
        np.put_along_axis(tokens, places, data, axis=1)
        tokens[:, -n:] = MARKER
        targets = np.full_like(tokens, IGNORED)
        targets[:, -n:] = data
        return tokens, targets
