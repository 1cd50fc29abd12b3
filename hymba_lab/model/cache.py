"""What generation keeps: keys and values, states and last inputs, in buffers made once.

A full attention layer keeps every token, a window layer the meta tokens and a ring of the last ones
(`model/ring.py`), a consumer nothing: it reads its producer's. A recurrence keeps its state, a
convolution its last inputs. Which buffers there are, and how large, is what the components'
`cache_shapes` say (`components/past.py`). B rows of unequal length share a cache: see `Rows`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hymba_lab.components.past import (
    NO_PAST,
    KeyValue,
    LayerPast,
    Names,
    Past,
    Recurrence,
    State,
    kept_dtype,
    kept_shapes,
)
from hymba_lab.errors import UserError
from hymba_lab.model.ring import extended
from hymba_lab.model.rows import Rows
from hymba_lab.ops import attention, attention_step, causal_conv, causal_conv_step


class Kept:
    """The past of one component, in the buffers that it names in `cache_shapes`."""

    def __init__(self, rows: Rows, buffers: dict[str, Tensor], owner: str) -> None:
        """`owner` is the component's name, for errors; a buffer is (B, *its shape)."""
        self.rows, self.buffers, self.owner = rows, buffers, owner

    def positions(self, n_tokens: int, device: torch.device) -> Tensor | range:
        """Return positions (T,) of a chunk or of equal rows, (B, 1, 1) of single tokens."""
        if self.rows.single and not self.rows.level:
            return self.rows.last[:, None, None]
        return range(self.rows.start, self.rows.start + n_tokens)

    def extend(self, k: Tensor, v: Tensor) -> KeyValue:
        """Keep k, v (B, K, T, P or V); return those before them and themselves."""
        kept_k, kept_v = self._buffers(("k", "v"))
        return extended(self.rows, kept_k, k), extended(self.rows, kept_v, v)

    def first_values(self, v: Tensor) -> Tensor:
        """Return v: a layer by itself is the first."""
        return v

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        window: int | None,
        n_meta: int,
        sink: Tensor | None = None,
    ) -> Tensor:
        """Return softmax(q k^T / sqrt(P)) v (B, H, T, V) over the keys each query may see."""
        if not self.rows.single:
            start = k.shape[2] - q.shape[2]
            return attention(q, k, v, window=window, n_meta=n_meta, q_start=start, sink=sink)
        return attention_step(q, k, v, self.rows.lengths, sink=sink)  # all kept keys are visible

    def conv(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        silu: bool = True,
        state: str = "inputs",
    ) -> Tensor:
        """Return the convolution of x (B, T, D); keep the last real inputs of every row."""
        [inputs] = self._buffers((state,))
        if self.rows.single:
            return causal_conv_step(x[:, 0], weight, bias, silu=silu, state=inputs).unsqueeze(1)
        y, after = causal_conv(x, weight, bias, silu=silu, state=inputs)
        if (real := self.rows.real) is not None:
            place = real[:, None] + torch.arange(inputs.shape[1], device=x.device)
            joined = torch.cat([inputs, x], dim=1)
            after = joined.gather(1, place[..., None].expand(-1, -1, x.shape[2]))
        inputs.copy_(after)
        return y

    def recur(
        self,
        op: Recurrence,
        tokens: Mapping[str, Tensor],
        fixed: Mapping[str, Any] | None = None,
        *,
        state: Names = "h",
    ) -> Tensor:
        """Return y (B, T, ...) of `op`; keep every row's state after its last real token."""
        kept = self._buffers((state,) if isinstance(state, str) else state)
        held: State = kept[0] if isinstance(state, str) else tuple(kept)
        if self.rows.single and op.step is not None:
            now = {name: tensor[:, 0] for name, tensor in tokens.items()}
            return op.step(**now, **(fixed or {}), state=held).unsqueeze(1)
        if self.rows.real is not None and op.no_step is None:
            return self._apart(op, tokens, fixed or {}, kept)
        tokens = self._still(op, tokens)
        before = None if self.rows.start == 0 else held
        y, after = op.scan(**tokens, **(fixed or {}), state=before)
        for buffer, new in zip(kept, _several(after), strict=True):
            buffer.copy_(new)
        return y

    def _still(self, op: Recurrence, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs with padding at the values that leave the state as it is."""
        tokens, padding = dict(tokens), self.rows.padding
        if padding is not None:
            for name, value in (op.no_step or {}).items():
                tensor = tokens[name]
                mask = padding.view(*padding.shape, *[1] * (tensor.ndim - 2))
                tokens[name] = tensor.masked_fill(mask, value)
        return tokens

    def _apart(
        self,
        op: Recurrence,
        tokens: Mapping[str, Tensor],
        fixed: Mapping[str, Any],
        kept: list[Tensor],
    ) -> Tensor:
        """Scan the rows that end at the same place together, and only to their end; y is 0 behind.

        For operations in which no input leaves the state as it is.
        """
        real = self.rows.real
        assert real is not None
        y: Tensor | None = None
        for n in sorted(set(real.tolist()) - {0}):
            rows = (real == n).nonzero().flatten()
            own = [buffer[rows] for buffer in kept]
            before: Any = tuple(own) if len(own) > 1 else own[0]
            before = None if self.rows.start == 0 else before
            part = {name: tensor[rows, :n] for name, tensor in tokens.items()}
            out, after = op.scan(**part, **fixed, state=before)
            for buffer, new in zip(kept, _several(after), strict=True):
                buffer[rows] = new.to(buffer.dtype)
            if y is None:
                y = out.new_zeros(len(real), self.rows.n_new, *out.shape[2:])
            y[rows, :n] = out
        assert y is not None, "a chunk has at least one token"
        return y

    def _buffers(self, names: tuple[str, ...]) -> list[Tensor]:
        missing = [name for name in names if name not in self.buffers]
        if missing:
            raise UserError(
                f"{self.owner} asks its past for {missing[0]!r}, but its cache_shapes names "
                f"{', '.join(self.buffers) or 'nothing'}; name everything that it keeps there."
            )
        return [self.buffers[name] for name in names]


class Cache:
    """The states of every layer for B rows of at most `n_tokens` text tokens each.

    Attributes: `rows`, `layers` (one `LayerPast` per block), `n_tokens`. Its size is fixed when it
    is made: `nbytes`. On the meta device it takes no memory and still knows its size.
    """

    def __init__(
        self, blocks: Iterable[nn.Module], n_meta: int, weight: Tensor, n_rows: int, n_tokens: int
    ) -> None:
        """The buffers take device and precision of `weight`; `LanguageModel.cache` makes one.

        Raises `UserError` for a component that does not say what it keeps.
        """
        self.n_tokens = n_tokens
        self.rows = Rows(n_rows, n_meta, weight.device)
        self.layers = [
            NO_PAST._replace(**{name: self._past(part, weight) for name, part in parts(block)})
            for block in blocks
        ]

    @property
    def is_empty(self) -> bool:
        """Whether no token has been seen yet."""
        return self.rows.longest == 0

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.nbytes for buffer in self.buffers)

    @property
    def buffers(self) -> list[Tensor]:
        """All buffers, (B, *its shape) each, in the order of the layers."""
        pasts = (past for layer in self.layers for past in layer if isinstance(past, Kept))
        return [buffer for past in pasts for buffer in past.buffers.values()]

    def take(self, order: Tensor) -> None:
        """Let row b go on from where row `order[b]` (B,) stands, as beams do."""
        for buffer in self.buffers:
            buffer.copy_(buffer.index_select(0, order.to(buffer.device)))
        self.rows.take(order)

    def take_over(self, other: "Cache", order: Tensor) -> None:
        """Go on in row b from row `order[b]` (B,) of a cache for as many tokens or fewer.

        Text token t lies in slot t of a ring that was never full, and a full ring is as large here.
        """
        for mine, kept in zip(self.buffers, other.buffers, strict=True):
            place = (slice(None), *(slice(size) for size in kept.shape[1:]))
            mine[place] = kept.index_select(0, order.to(kept.device))
        vars(self.rows).update(vars(other.rows))
        self.rows.take(order)

    def begin(self, n_new: int, n_real: Tensor | None) -> list[LayerPast]:
        """Start a step of `n_new` text tokens (see `Rows`); return what each layer keeps.

        The first step brings the meta tokens along. Raises `ValueError` when rows outgrow it.
        """
        first = self.rows.n_meta if self.is_empty else 0
        self.rows.begin(n_new + first, None if n_real is None else n_real + first)
        if self.rows.longest > self.rows.n_meta + self.n_tokens:
            raise ValueError(f"the cache is made for {self.n_tokens} tokens a row; make it larger")
        return self.layers

    def _past(self, component: nn.Module, weight: Tensor) -> Past:
        """Return zeros of the shapes that a component asks for, as its past."""
        name = type(component).__name__
        shapes = kept_shapes(component, self.n_tokens)
        if shapes is None:
            raise UserError(
                f"{name} has no cache_shapes: what it keeps from token to token is not known, so "
                "it cannot generate. Give it `cache_shapes(n_tokens)`, which returns the shapes "
                "that one row keeps by name ({} for nothing), and ask `past` for them."
            )
        n_rows = len(self.rows.lengths)
        try:
            buffers = {
                key: torch.zeros(
                    (n_rows, *shape), dtype=kept_dtype(key, weight.dtype), device=weight.device
                )
                for key, shape in shapes.items()
            }
        except RuntimeError as error:  # a CPU's has no class of its own
            if "memory" not in str(error):
                raise
            raise UserError(
                f"a cache of {n_rows} texts of {self.n_tokens} tokens is larger than the memory of "
                f"{weight.device}; ask for fewer new tokens (max_new_tokens), or fewer texts at "
                "once."
            ) from None
        return Kept(self.rows, buffers, name)


def parts(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the name and module of every part of a layer that has a past: see `LayerPast`."""
    for name in LayerPast._fields:
        for owner in (getattr(block, "mixer", None), block):
            if (part := getattr(owner, name, None)) is not None:
                yield name, part
                break


def _several(state: Any) -> tuple[Tensor, ...]:
    """Return the new states; several may be views of the kept ones, which change one by one."""
    return tuple(new.clone() for new in state) if isinstance(state, tuple) else (state,)
