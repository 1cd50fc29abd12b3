"""Windows over a long row of tokens: what every text source is made of."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from hymba_lab.data.chain import Tokens
from hymba_lab.data.draws import Ints, generator
from hymba_lab.data.source import Batch, digest
from hymba_lab.data.tokenizers import Readable, Tokenizer
from hymba_lab.errors import DataError


class TokenFile:
    """Tokens `start..stop-1` of a file, mapped into memory.

    `.npy`: a one-dimensional array of integers. Pickles as its name, so that workers of a data
    loader share the pages instead of copying them.
    """

    def __init__(self, path: Path, start: int = 0, stop: int | None = None) -> None:
        self.path, self._part = path, (start, stop)
        ids: npt.NDArray[np.integer] = np.load(path, mmap_mode="r", allow_pickle=False)
        self.ids = np.asarray(ids[start:stop])

    def __reduce__(self) -> tuple[type["TokenFile"], tuple[Path, int, int | None]]:
        return type(self), (self.path, *self._part)

    def __len__(self) -> int:
        return len(self.ids)

    def windows(self, starts: Ints, length: int) -> Ints:
        """Return (len(starts), length) tokens."""
        windows: Ints = self.ids[starts[:, None] + np.arange(length)].astype(np.int64)
        return windows


class TokenStream:
    """A text source over two rows of tokens: random windows to train on, fixed ones to validate.

    A window has seq_len + 1 tokens: position t predicts token t + 1, every position is scored.
    """

    scored: Literal["accuracy", "loss"] = "loss"
    groups: tuple[str, ...] = ("all",)

    def __init__(
        self,
        name: str,
        seq_len: int,
        *,
        rows: int,
        train: Tokens,
        val: Tokens,
        vocab: int,
        n_val: int,
        contents: str,
        entropy: float,
        bytes_per_token: float | None,
        vocabulary: str | None = None,
        corpus: Readable | None = None,
    ) -> None:
        """`contents` is the fingerprint of the tokens, `entropy` as by `unigram_entropy`.

        Raises DataError where a part is too short for one window.
        """
        for part, tokens in (("training", train), ("validation", val)):
            if len(tokens) <= seq_len:
                raise DataError(
                    f"{name}: the {part} part has {len(tokens)} tokens, one window takes "
                    f"{seq_len + 1} (seq_len + 1); give more text or a smaller training.seq_len"
                    + ("" if part == "training" else ", or a larger share for validation")
                )
        self.seq_len = seq_len
        self.rows = rows
        self.vocab = vocab
        self.train = train
        self.val = val
        self.bytes_per_token = bytes_per_token
        self.reference = {"loss": entropy}
        self._n_val = min(n_val, (len(val) - 1) // seq_len)  # more would only repeat tokens
        self.vocabulary, self._corpus = vocabulary, corpus
        self._domain = f"{name}/train/{contents}"
        self.fingerprint = digest(contents, seq_len, n_val)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What reads ids back as text, where it is known."""
        return None if self._corpus is None else self._corpus.tokenizer

    def train_batch(self, seed: int, step: int) -> Batch:
        """Return `rows` windows at uniform places of the training part."""
        rng = generator(self._domain, seed, step)
        return self._batch(self.train, rng.integers(0, len(self.train) - self.seq_len, self.rows))

    def val_batches(self) -> Iterator[Batch]:
        """Yield evenly spaced windows of the validation part that do not overlap."""
        last = len(self.val) - self.seq_len - 1
        starts = np.linspace(0, last, self._n_val).astype(np.int64)
        for first in range(0, self._n_val, self.rows):
            yield self._batch(self.val, starts[first : first + self.rows])

    def _batch(self, tokens: Tokens, starts: Ints) -> Batch:
        ids = tokens.windows(starts, self.seq_len + 1)
        if ids.max() >= self.vocab or ids.min() < 0:
            raise DataError(
                f"ids from {ids.min()} to {ids.max()} where 0 to {self.vocab - 1} are known; a "
                "file of tokens was changed while it was in use: start again"
            )
        windows = torch.from_numpy(ids)
        group = torch.zeros(len(starts), dtype=torch.int64)
        return Batch(windows[:, :-1].contiguous(), windows[:, 1:].contiguous(), group)


def count_ids(ids: npt.NDArray[np.integer], vocab: int) -> Ints:
    """Return (vocab,) how often each id comes; every id is below `vocab`."""
    counts = np.zeros(vocab, dtype=np.int64)
    for start in range(0, len(ids), 1 << 22):  # bincount widens what it counts to 8 bytes an id
        counts += np.bincount(ids[start : start + (1 << 22)], minlength=vocab)
    return counts


def unigram_entropy(train: Ints, val: Ints) -> float:
    """Return -sum_i q_i log p_i [nats per token]: the loss of a model that ignores its context.

    `train` and `val` are the counts n_i of each of V ids. q_i = share of i in `val`;
    p_i = (n_i + 1) / (n + V) from `train`, so that an id first met in validation costs much, but
    not infinitely much.
    """
    p = (train + 1) / (train.sum() + len(train))
    q = val / val.sum()
    return float(-(q @ np.log(p)))
