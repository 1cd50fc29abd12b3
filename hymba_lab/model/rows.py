"""Rows of unequal length that share a cache: how long each is, and where a step's tokens stand."""

import torch
from torch import Tensor


class Rows:
    """How many positions each row has, and where the tokens of the step under way stand.

    Positions count meta tokens. A step is one of two. A chunk: T tokens at the same positions of
    every row, where a row that ends inside it, or ended before, has padding behind. After the
    chunks: a single real token in each row, each at its own position. Rows of 2 meta tokens (M),
    7, 4 and 5 tokens in all, `.` is padding:

        position     0 1 2 3   4 5 6 7   8
        row 0        M M a b   c d e     f      chunk 1: start 0, n_new 4, real None (all of them)
        row 1        M M a b   . . .   > c      chunk 2: start 4, n_new 3, real [3, 0, 1]
        row 2        M M a b   c . .   > d      single:  n_new 1, each token at its row's end:
                     chunk 1   chunk 2   single          row 0 at 7, row 1 at 4, row 2 at 5

                         after   chunk 1    chunk 2    single
        lengths   (host) (B,)    [4 4 4]    [7 4 5]    [8 5 6]    positions each row has
        last    (device) (B,)    [3 3 3]    [6 3 4]    [7 4 5]    lengths - 1: the newest token
        longest                   4          7          8         lengths.max(), slots in use
        level                     True       False      False     all rows equally long
        start                     0          4          7         longest before this step
        n_new                     4          3          1         tokens of a row, padding included
        real    (device) (B,)     None       [3 0 1]    None      real tokens of a row in the chunk
        single                    False      False      True

    `lengths` lies on the host because it decides on shapes; `last` and `real` lie where the buffers
    do, because they decide on slots.
    """

    def __init__(self, n_rows: int, n_meta: int, device: torch.device) -> None:
        self.n_meta, self.device = n_meta, device
        self.lengths = torch.zeros(n_rows, dtype=torch.long)
        self.single, self.start, self.n_new, self.longest = False, 0, 0, 0
        self.level = True
        self.real: Tensor | None = None
        self.last = self.lengths.to(device)

    def begin(self, n_new: int, n_real: Tensor | None) -> None:
        """Add `n_new` tokens to every row, the first `n_real` (B,) of them real (None = all)."""
        self.single, self.n_new = n_new == 1 and n_real is None, n_new
        self.start = int(self.lengths.max())
        added = torch.full_like(self.lengths, n_new) if n_real is None else n_real.cpu()
        if not self.single and ((added > 0) & (self.lengths != self.start)).any():
            raise ValueError("a chunk must start where all its rows stand; they differ in length")
        self.real = None if n_real is None else added.to(self.device)
        self.lengths = self.lengths + added
        self.longest = int(self.lengths.max())
        self.level = int(self.lengths.min()) == self.longest
        self.last = self.lengths.to(self.device) - 1

    def take(self, order: Tensor) -> None:
        """Put row `order[b]` (B,) in the place of row b, between two steps."""
        self.lengths = self.lengths[order.cpu()]
        self.last = self.last[order.to(self.last.device)]
        self.longest = int(self.lengths.max())
        self.level = int(self.lengths.min()) == self.longest

    @property
    def padding(self) -> Tensor | None:
        """(B, T) bool, True where a chunk holds no token; None when it is full."""
        if self.real is None:
            return None
        return torch.arange(self.n_new, device=self.device) >= self.real[:, None]
