"""Associative recall: many keys (`mqar`) or one repeated token (`induction`)."""

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hymba_lab.data.draws import Ints, choose, choose_weighted
from hymba_lab.data.source import IGNORED, datasets
from hymba_lab.data.synthetic import Synthetic
from hymba_lab.errors import ConfigError

Positive = Annotated[int, Field(ge=1, le=2**31)]


@datasets.register("mqar")
class MQAR(Synthetic):
    """Key-value pairs, then every key once more: predict its value.

    A row with n pairs is `k_1 v_1 ... k_n v_n` and a query part of S = (T - 2n) // 2 slots of two
    tokens; pair i is asked at the start of slot g_i, position 2n + 2 (g_i - 1), g_i in 1..S, with

        p(g) ~ power * g^(power - 1),    g_1, ..., g_n drawn in turn without replacement.

    The target at a query is the value; nothing else is scored. Keys are distinct ids in
    1..vocab//2 - 1, values distinct ids in vocab//2..vocab-1; 0 fills the rest. Chance: `accuracy`
    = 1 / number of values; `accuracy_seen` = a guess among the values of the row, over all queries
    of all difficulties (`accuracy_seen/pairs_n` = 1/n): what a model reaches that has learned which
    tokens are values, but not which belongs to which key.

    `power` = 1 asks uniformly. `random_fill` replaces the filler by random values (never keys, so
    that every key is met exactly twice; the published generator draws from all ids).
    Source: Arora et al. 2023, "Zoology", arXiv:2312.04927.
    """

    def __init__(
        self,
        seq_len: int,
        *,
        rows: Positive,
        n_pairs: Annotated[list[Positive], Field(min_length=1)],
        vocab: Annotated[int, Field(ge=4, le=2**24)] = 256,
        power: Annotated[float, Field(gt=0)] = 0.01,
        random_fill: bool = False,
        n_val: Positive = 256,
        val_seed: int = 0,
    ) -> None:
        most = max(n_pairs)
        if 4 * most > seq_len:
            raise ConfigError(
                f"n_pairs: {most} pairs and their questions need {4 * most} tokens, seq_len is "
                f"{seq_len}; use at most {seq_len // 4} pairs or a longer sequence"
            )
        if most > vocab // 2 - 1:
            raise ConfigError(
                f"n_pairs: {most} distinct keys do not fit: vocab {vocab} has {vocab // 2 - 1} "
                f"keys; use vocab: {2 * most + 2} or more"
            )
        super().__init__(
            "mqar",
            seq_len,
            rows=rows,
            vocab=vocab,
            groups=[f"pairs_{n}" for n in n_pairs],
            options={"n_pairs": n_pairs, "vocab": vocab, "power": power, "fill": random_fill},
            n_val=n_val,
            val_seed=val_seed,
        )
        self.n_pairs = list(n_pairs)
        self.power = power
        self.random_fill = random_fill
        self.reference = {
            "accuracy": 1 / (vocab - vocab // 2),
            "accuracy_seen": len(n_pairs) / sum(n_pairs),
            **{f"accuracy_seen/pairs_{n}": 1 / n for n in n_pairs},
        }

    def draw(self, rng: np.random.Generator, group: int, rows: int) -> tuple[Ints, Ints]:
        """Return tokens and targets of `rows` rows with `n_pairs[group]` pairs each."""
        n, first_value = self.n_pairs[group], self.vocab // 2
        keys = 1 + choose(rng, rows, first_value - 1, n)
        values = first_value + choose(rng, rows, self.vocab - first_value, n)
        slots = (self.seq_len - 2 * n) // 2
        gaps = choose_weighted(rng, rows, self._gap_weights(slots), n)
        tokens = np.zeros((rows, self.seq_len), dtype=np.int64)
        if self.random_fill:
            tokens[:] = rng.integers(first_value, self.vocab, tokens.shape)
        tokens[:, 0 : 2 * n : 2] = keys
        tokens[:, 1 : 2 * n : 2] = values
        asked = 2 * n + 2 * gaps
        np.put_along_axis(tokens, asked, keys, axis=1)
        targets = np.full_like(tokens, IGNORED)
        np.put_along_axis(targets, asked, values, axis=1)
        return tokens, targets

    def _gap_weights(self, slots: int) -> npt.NDArray[np.float64]:
        return np.power(np.arange(1, slots + 1, dtype=np.float64), self.power - 1)


@datasets.register("induction")
class Induction(Synthetic):
    """A random sequence in which one special token comes twice: predict what followed it.

    Id 0 is the special token, all other ids are ordinary and uniform. It stands once at a uniform
    position in 0..T-3 and again at the end, T-1, where the target is the token after its first
    place. Chance: 1 / (vocab - 1).
    Sources: Olsson et al. 2022, arXiv:2209.11895 (induction heads); Fu et al. 2022, "H3",
    arXiv:2212.14052, section 3.1 (the synthetic task).
    """

    def __init__(
        self,
        seq_len: int,
        *,
        rows: Positive,
        vocab: Annotated[int, Field(ge=3, le=2**24)] = 16,
        n_val: Positive = 1024,
        val_seed: int = 0,
    ) -> None:
        if seq_len < 3:
            raise ConfigError(f"induction: seq_len is {seq_len}, the task needs at least 3 tokens")
        super().__init__(
            "induction",
            seq_len,
            rows=rows,
            vocab=vocab,
            groups=["all"],
            options={"vocab": vocab},
            n_val=n_val,
            val_seed=val_seed,
        )
        self.reference = {"accuracy": 1 / (vocab - 1)}

    def draw(self, rng: np.random.Generator, group: int, rows: int) -> tuple[Ints, Ints]:
        """Return tokens and targets; only the last position is scored."""
        tokens = rng.integers(1, self.vocab, (rows, self.seq_len))
        place = rng.integers(0, self.seq_len - 2, (rows, 1))
        np.put_along_axis(tokens, place, 0, axis=1)
        tokens[:, -1] = 0
        targets = np.full_like(tokens, IGNORED)
        targets[:, -1] = np.take_along_axis(tokens, place + 1, axis=1)[:, 0]
        return tokens, targets
