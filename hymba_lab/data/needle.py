"""A needle in a haystack: one fact at a known depth, asked for at the end."""

from typing import Annotated

import numpy as np
from pydantic import Field

from hymba_lab.data.draws import Ints, choose
from hymba_lab.data.source import IGNORED, datasets
from hymba_lab.data.synthetic import Synthetic
from hymba_lab.errors import ConfigError

Depth = Annotated[float, Field(ge=0, le=1)]


@datasets.register("needle")
class Needle(Synthetic):
    """A key and its value at one depth of a noisy row; the key again at the end: give the value.

    The row is S = (T - 1) // 2 slots of two tokens (T even: one more noise token) and the question
    at T - 1, the only scored position. The needle fills slot round(depth * (S - 1)): depth 0 is the
    start, depth 1 the end. `n_distractors` other pairs, with other keys and values, fill random
    slots. Ids: noise 0..V/2-1, keys V/2..3V/4-1, values 3V/4..V-1 (fractions rounded down).
    Chance: `accuracy` = 1 / number of values; `accuracy_seen` = 1 / (1 + n_distractors), a guess
    among the values of the row. Without distractors the key carries no information: that measures
    how far back a token is kept; with them also whether it is found by its key.
    Source: the recall test of figure 10 of arXiv:2411.13676, in synthetic tokens.
    """

    def __init__(
        self,
        seq_len: int,
        *,
        rows: Annotated[int, Field(ge=1, le=2**31)],
        depths: Annotated[list[Depth], Field(min_length=1)] = [0.0, 0.25, 0.5, 0.75, 1.0],
        n_distractors: Annotated[int, Field(ge=0, le=2**31)] = 0,
        vocab: Annotated[int, Field(ge=8, le=2**24)] = 64,
        n_val: Annotated[int, Field(ge=1, le=2**31)] = 256,
        val_seed: int = 0,
    ) -> None:
        slots, keys = (seq_len - 1) // 2, 3 * vocab // 4 - vocab // 2
        if 1 + n_distractors > min(slots, keys):
            raise ConfigError(
                f"needle: {1 + n_distractors} pairs do not fit: seq_len {seq_len} has {slots} "
                f"slots, vocab {vocab} has {keys} keys; "
                f"use n_distractors: {min(slots, keys) - 1} or fewer"
            )
        super().__init__(
            "needle",
            seq_len,
            rows=rows,
            vocab=vocab,
            groups=[f"depth_{depth:g}" for depth in depths],
            options={"depths": depths, "n_distractors": n_distractors, "vocab": vocab},
            n_val=n_val,
            val_seed=val_seed,
        )
        self.slots = slots
        self.depths = list(depths)
        self.n_pairs = 1 + n_distractors
        self.first_key, self.first_value = vocab // 2, 3 * vocab // 4
        self.reference = {
            "accuracy": 1 / (vocab - self.first_value),
            "accuracy_seen": 1 / self.n_pairs,
        }

    def draw(self, rng: np.random.Generator, group: int, rows: int) -> tuple[Ints, Ints]:
        """Return tokens and targets of `rows` rows with the needle at `depths[group]`."""
        n, slot = self.n_pairs, round(self.depths[group] * (self.slots - 1))
        keys = self.first_key + choose(rng, rows, self.first_value - self.first_key, n)
        values = self.first_value + choose(rng, rows, self.vocab - self.first_value, n)
        tokens = rng.integers(0, self.first_key, (rows, self.seq_len))
        places = np.full((rows, n), slot)
        if n > 1:
            others = choose(rng, rows, self.slots - 1, n - 1)
            places[:, 1:] = others + (others >= slot)  # every slot but the needle's
        np.put_along_axis(tokens, 2 * places, keys, axis=1)
        np.put_along_axis(tokens, 2 * places + 1, values, axis=1)
        tokens[:, -1] = keys[:, 0]
        targets = np.full_like(tokens, IGNORED)
        targets[:, -1] = values[:, 0]
        return tokens, targets
