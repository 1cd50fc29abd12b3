"""What generation keeps: keys and values, SSM states and last inputs, in buffers made once.

A full layer keeps every token. A window layer keeps the meta tokens and a ring of as many tokens as
its window: text token t lies in slot t mod W of it, over the token that has just left the window. A
consumer keeps nothing, it reads its producer's. An SSM keeps its state (float32 at least) and the
last inputs of its convolution. Slots are filled in the order of the tokens, so "which slots hold a
key" is a count, and since keys are kept after their rotation the order of the ring does not matter.

B rows of unequal length share a cache: see `Rows`.
"""

from collections.abc import Iterable
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from hymba_lab.components.past import NO_PAST, KeyValue, LayerPast
from hymba_lab.model.block import Block
from hymba_lab.ops import (
    attention,
    attention_step,
    causal_conv,
    causal_conv_step,
    one_token,
    selective_scan,
    selective_scan_step,
)

NO_STEP = -1e4  # softplus of it is 0, in bfloat16 and float16 too: the state stays as it is


@runtime_checkable
class Kept(Protocol):
    """A component that keeps tensors while it generates."""

    def cache_shapes(self, n_tokens: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes that one row keeps after `n_tokens`."""
        ...


def exact(dtype: torch.dtype) -> torch.dtype:
    """Return the precision that sums are made in: float32, or float64 for that."""
    return torch.promote_types(dtype, torch.float32)


class Rows:
    """How many positions each row has, and where the tokens of the step under way stand.

    Positions count meta tokens. A step is one of two: a `chunk` of T tokens at `start`..`start` +
    T - 1 of every row, where a row that ends inside it or before has padding at its end; or, after
    that, a single real token in each row, each at its own position.
    """

    def __init__(self, n_rows: int, n_meta: int, device: torch.device) -> None:
        self.n_meta, self.device = n_meta, device
        self.lengths = torch.zeros(n_rows, dtype=torch.long)  # on the host: it decides on shapes
        self.single, self.start, self.n_new, self.longest = False, 0, 0, 0
        self.level = True
        self.real: Tensor | None = None  # (B,) real tokens of the chunk; None = all
        self.last = self.lengths.to(device)  # (B,) position of each row's newest token

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
        self.level = int(self.lengths.min()) == self.longest  # whether all rows are equally long
        self.last = self.lengths.to(self.device) - 1

    @property
    def padding(self) -> Tensor | None:
        """(B, T) bool, True where a chunk holds no token; None when it is full."""
        if self.real is None:
            return None
        return torch.arange(self.n_new, device=self.device) >= self.real[:, None]


class KeysValues:
    """The past of an attention layer; a consumer's has no buffers of its own."""

    def __init__(self, rows: Rows, buffers: dict[str, Tensor]) -> None:
        """`buffers` k (B, K, slots, P) and v (B, K, slots, V), or none."""
        self.rows, self.buffers = rows, buffers

    def positions(self, n_tokens: int, device: torch.device) -> Tensor | range:
        """Return positions (T,) of a chunk or of equal rows, (B, 1, 1) of single tokens."""
        if self.rows.single and not self.rows.level:
            return self.rows.last[:, None, None]
        return range(self.rows.start, self.rows.start + n_tokens)

    def extend(self, k: Tensor, v: Tensor) -> KeyValue:
        """Keep k, v (B, K, T, P or V); return those before them and themselves."""
        return self._extend(self.buffers["k"], k), self._extend(self.buffers["v"], v)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *, window: int | None, n_meta: int) -> Tensor:
        """Return softmax(q k^T / sqrt(P)) v (B, H, T, V) over the keys each query may see."""
        if not self.rows.single:
            return attention(q, k, v, window=window, n_meta=n_meta, q_start=k.shape[2] - q.shape[2])
        return attention_step(q, k, v, self.rows.lengths)  # all kept keys are visible

    def _extend(self, kept: Tensor, new: Tensor) -> Tensor:
        """Return the keys or values that the step sees, chunks oldest first."""
        if self.rows.single:
            self._keep_single(kept, new)
            return kept[:, :, : self.rows.longest]
        start, end = self.rows.start, self.rows.start + new.shape[2]
        if end <= kept.shape[2]:  # padding lands in slots that stay unseen until a token takes them
            kept[:, :, start:end] = new
            return kept[:, :, :end]
        seen = torch.cat([self._before(kept), new], dim=2) if start else new
        self._keep_newest(kept, new)
        return seen

    def _keep_single(self, kept: Tensor, new: Tensor) -> None:
        n_meta, ring = self.rows.n_meta, kept.shape[2] - self.rows.n_meta
        if self.rows.level:
            kept[:, :, n_meta + (self.rows.longest - 1 - n_meta) % ring] = new[:, :, 0]
        else:
            slot = n_meta + (self.rows.last - n_meta) % ring
            kept[torch.arange(len(slot), device=slot.device), :, slot] = new[:, :, 0]

    def _before(self, kept: Tensor) -> Tensor:
        """Return the meta tokens and the text kept before this chunk, oldest first."""
        n_meta, start = self.rows.n_meta, self.rows.start
        ring = kept.shape[2] - n_meta
        if start <= kept.shape[2]:
            return kept[:, :, :start]
        text = torch.arange(start - n_meta - ring, start - n_meta, device=kept.device) % ring
        meta = torch.arange(n_meta, device=kept.device)
        return kept.index_select(2, torch.cat([meta, n_meta + text]))

    def _keep_newest(self, kept: Tensor, new: Tensor) -> None:
        """Put into every slot of the ring its row's newest real token, where the chunk has it."""
        n_meta, start = self.rows.n_meta, self.rows.start
        if start == 0:
            kept[:, :, :n_meta] = new[:, :, :n_meta]
        ring = kept[:, :, n_meta:]
        slot = torch.arange(ring.shape[2], device=kept.device)
        last = self.rows.last[:, None] - n_meta  # (B, 1) newest text token
        newest = last - (last - slot) % len(slot)  # (B, slots) negative where there is none yet
        place = newest + n_meta - start  # in the chunk; negative for a token kept already
        comes = ((newest >= 0) & (place >= 0))[:, None, :, None]
        source = place.clamp(min=0)[:, None, :, None]
        source = source.expand(-1, new.shape[1], -1, new.shape[3])
        ring.copy_(torch.where(comes, new.gather(2, source), ring))


class Recurrence:
    """The past of an SSM layer: its state h (B, D, N) and its last inputs (B, d_conv - 1, D)."""

    def __init__(self, rows: Rows, buffers: dict[str, Tensor]) -> None:
        self.rows, self.buffers = rows, buffers

    def decay(self, A_log: Tensor) -> Tensor:
        """Return A = -exp(A_log) in float32, again in every step: it is no state."""
        fast = self.rows.single and one_token.fits(A_log)
        return one_token.decay(A_log) if fast else -A_log.float().exp()

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the convolution of x (B, T, D); keep the last real inputs of every row."""
        inputs, real = self.buffers["inputs"], self.rows.real
        if self.rows.single:
            return causal_conv_step(x[:, 0], weight, bias, state=inputs).unsqueeze(1)
        y, after = causal_conv(x, weight, bias, state=inputs)
        if real is not None:
            place = real[:, None] + torch.arange(inputs.shape[1], device=x.device)
            joined = torch.cat([inputs, x], dim=1)
            after = joined.gather(1, place[..., None].expand(-1, -1, x.shape[2]))
        inputs.copy_(after)
        return y

    def scan(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        *,
        z: Tensor,
        dt_bias: Tensor,
    ) -> Tensor:
        """Return the scan of x (B, T, D); keep every row's state after its last real token."""
        h = self.buffers["h"]
        if self.rows.single:
            token = (x[:, 0], dt[:, 0], A, B[:, 0], C[:, 0], D)
            y, _ = selective_scan_step(*token, z=z[:, 0], dt_bias=dt_bias, h=h, out=h)
            return y.unsqueeze(1)
        if (padding := self.rows.padding) is not None:
            dt = dt.masked_fill(padding[..., None], NO_STEP)
        h0 = None if self.rows.start == 0 else h
        y, after = selective_scan(x, dt, A, B, C, D, z=z, dt_bias=dt_bias, h0=h0)
        h.copy_(after)
        return y


class Cache:
    """The states of every layer for B rows of at most `n_tokens` text tokens each.

    Attributes: `rows`, `layers` (one `LayerPast` per block), `n_tokens`. Its size is fixed when it
    is made: `nbytes`. On the meta device it takes no memory and still knows its size.
    """

    def __init__(
        self, blocks: Iterable[nn.Module], n_meta: int, weight: Tensor, n_rows: int, n_tokens: int
    ) -> None:
        """The buffers take device and precision of `weight`; `LanguageModel.cache` makes one."""
        self.n_tokens = n_tokens
        self.rows = Rows(n_rows, n_meta, weight.device)
        self._buffers: list[Tensor] = []
        self.layers = [self._layer(cast(Block, block).mixer, weight) for block in blocks]

    @property
    def is_empty(self) -> bool:
        """Whether no token has been seen yet."""
        return self.rows.longest == 0

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def begin(self, n_new: int, n_real: Tensor | None) -> list[LayerPast]:
        """Start a step of `n_new` text tokens (see `Rows`); return what each layer keeps.

        The first step brings the meta tokens along. Raises `ValueError` when rows outgrow it.
        """
        first = self.rows.n_meta if self.is_empty else 0
        self.rows.begin(n_new + first, None if n_real is None else n_real + first)
        if self.rows.longest > self.rows.n_meta + self.n_tokens:
            raise ValueError(f"the cache is made for {self.n_tokens} tokens a row; make it larger")
        return self.layers

    def _layer(self, mixer: nn.Module, weight: Tensor) -> LayerPast:
        attend, ssm = getattr(mixer, "attention", None), getattr(mixer, "ssm", None)
        return LayerPast(
            KeysValues(self.rows, self._make(attend, weight)) if attend else NO_PAST.attention,
            Recurrence(self.rows, self._make(ssm, weight)) if ssm else NO_PAST.ssm,
        )

    def _make(self, component: nn.Module, weight: Tensor) -> dict[str, Tensor]:
        """Return zeros of the shapes that a component asks for."""
        if not isinstance(component, Kept):
            raise TypeError(f"{type(component).__name__} has no cache_shapes: it cannot generate")
        # the recurrence adds up over the whole sequence, so its state keeps the scan's precision
        special = {"h": exact(weight.dtype)}
        made = {
            name: torch.zeros(
                (len(self.rows.lengths), *shape),
                dtype=special.get(name, weight.dtype),
                device=weight.device,
            )
            for name, shape in component.cache_shapes(self.n_tokens).items()
        }
        self._buffers += made.values()
        return made
