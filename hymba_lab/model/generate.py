"""Text from a model: prompts of unequal length in, new tokens out, one step at a time.

Padding never enters the model: rows are moved to the left, read in chunks of bounded memory, and
each row goes on from its own last token (`hymba_lab.model.cache`).
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hymba_lab.errors import UserError
from hymba_lab.model.cache import Cache

CHUNK = 512  # tokens of a prompt read at once


class Decodes(Protocol):
    """What generation needs of a model."""

    embedding: nn.Embedding
    max_tokens: int | None

    def cache(self, n_rows: int, n_tokens: int) -> Cache: ...
    def features(
        self, tokens: Tensor, cache: Cache | None = None, n_real: Tensor | None = None
    ) -> Tensor: ...
    def logits(self, features: Tensor) -> Tensor: ...


def generate(
    model: Decodes,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos: int | Sequence[int] | None = None,
    seed: int | None = None,
    chunk_size: int = CHUNK,
) -> Tensor:
    """Return `input_ids` (B, T) as given and at most `max_new_tokens` behind: (B, T + n).

    `attention_mask` (B, T) is 1 at tokens and 0 at padding, on either side; None = no padding. Each
    row is what it would be alone. `temperature` 0 takes the likeliest token; else tokens are drawn
    from softmax(logits / temperature), cut to the `top_k` likeliest and to the fewest that hold
    `top_p` of the probability. A row ends with an id of `eos` and is filled up with it; generation
    ends with the last row. The same `seed` draws the same tokens. `chunk_size` [tokens] bounds the
    memory that reading the prompt takes.

    Raises `UserError` for ids, masks and options that cannot be, and where prompt and new tokens
    together are longer than the model's positions are made for.
    """
    steps = stream(
        model, input_ids, attention_mask, max_new_tokens, temperature, top_k, top_p, eos, seed,
        chunk_size,
    )  # fmt: skip
    return torch.cat([input_ids, torch.stack(list(steps), dim=1)], dim=1)


def stream(
    model: Decodes,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos: int | Sequence[int] | None = None,
    seed: int | None = None,
    chunk_size: int = CHUNK,
) -> Iterator[Tensor]:
    """Yield the new tokens (B,) one by one as they are made; see `generate`."""
    vocab = model.embedding.num_embeddings
    ends = [eos] if isinstance(eos, int) else list(eos or [])
    _check_options(vocab, max_new_tokens, temperature, top_k, top_p, ends, chunk_size)
    tokens, lengths = _compact(input_ids, attention_mask, vocab)
    n_tokens = tokens.shape[1] + max_new_tokens
    if model.max_tokens is not None and n_tokens > model.max_tokens:
        raise UserError(
            f"the longest prompt has {tokens.shape[1]} tokens, with max_new_tokens = "
            f"{max_new_tokens} that is {n_tokens}; the model's positions are made for "
            f"{model.max_tokens}. Shorten the prompt or ask for fewer tokens."
        )
    choose = _chooser(temperature, top_k, top_p, seed, tokens.device)
    cache = model.cache(len(tokens), n_tokens - 1)  # nothing follows the last token
    return _steps(model, cache, tokens, lengths, choose, ends, max_new_tokens, chunk_size)


@torch.no_grad()
def prefill(
    model: Decodes, cache: Cache, tokens: Tensor, lengths: Tensor, chunk_size: int
) -> Tensor:
    """Read rows of `lengths` (B,) tokens, padding behind; return their last features (B, D)."""
    last = tokens.new_empty(())
    for start in range(0, tokens.shape[1], chunk_size):
        chunk = tokens[:, start : start + chunk_size]
        n_real = (lengths - start).clamp(0, chunk.shape[1])
        padded = bool((n_real < chunk.shape[1]).any())
        features = model.features(chunk, cache, n_real if padded else None)
        ended = features[torch.arange(len(chunk), device=chunk.device), n_real.clamp(min=1) - 1]
        last = ended if start == 0 else torch.where((n_real > 0)[:, None], ended, last)
    return last


@torch.no_grad()
def _steps(
    model: Decodes,
    cache: Cache,
    tokens: Tensor,
    lengths: Tensor,
    choose: Callable[[Tensor], Tensor],
    ends: list[int],
    max_new_tokens: int,
    chunk_size: int,
) -> Iterator[Tensor]:
    features = prefill(model, cache, tokens, lengths, chunk_size)
    done = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    stops = torch.tensor(ends, dtype=torch.long, device=tokens.device)
    for made in range(1, max_new_tokens + 1):
        with row_products(features):
            logits = model.logits(features).float()
        _check_finite(logits, made)
        new = choose(logits)
        new = new.masked_fill(done, ends[0]) if ends else new
        yield new
        done |= torch.isin(new, stops)
        if made == max_new_tokens or bool(done.all()):
            return
        with row_products(features):
            features = model.features(new[:, None], cache)[:, 0]


def _check_finite(logits: Tensor, step: int) -> None:
    """Raise `UserError` where a row has no likeliest token."""
    if broken := torch.nonzero(~logits.amax(-1).isfinite()).flatten().tolist():
        raise UserError(
            f"rows {broken} have logits that are no numbers at new token {step}: the weights hold "
            "NaN or infinity, or overflow in this precision; check the checkpoint, or take float32."
        )


@contextmanager
def row_products(features: Tensor) -> Iterator[None]:
    """Leave oneDNN aside for one row of 16 bits on a CPU: decoding is reading the weights.

    Measured with torch 2.13 on AVX-512: oneDNN's product of a row and a bfloat16 matrix reads the
    matrix at 45 % of the memory's bandwidth, torch's own at 90 %; from two rows on oneDNN wins.
    """
    one_row = features.is_cpu and len(features) == 1 and features.dtype.itemsize == 2
    with _ASIDE if one_row else nullcontext():
        yield


class _Aside:
    """oneDNN's switch is one for all threads: the first turns it off, the last sets it back."""

    def __init__(self) -> None:
        self._lock, self._n, self._before = threading.Lock(), 0, True

    def __enter__(self) -> None:
        onednn: Any = torch.backends.mkldnn  # its own `flags()` would warn about TF32
        with self._lock:
            if not self._n:
                self._before, onednn.enabled = onednn.enabled, False
            self._n += 1

    def __exit__(self, *raised: object) -> None:
        onednn: Any = torch.backends.mkldnn
        with self._lock:
            self._n -= 1
            if not self._n:
                onednn.enabled = self._before


_ASIDE = _Aside()


def _chooser(
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    device: torch.device,
) -> Callable[[Tensor], Tensor]:
    """Return the map from logits (B, vocab) to the next tokens (B,)."""
    if temperature == 0:
        return lambda logits: logits.argmax(-1)
    smallest = max(temperature, torch.finfo(torch.float32).tiny)
    generator = torch.Generator(device)
    generator.manual_seed(seed) if seed is not None else generator.seed()

    def draw(logits: Tensor) -> Tensor:
        ordered, ids = logits.sort(dim=-1, descending=True)
        # from the likeliest down: no quotient overflows, however small the temperature
        p = ((ordered - ordered[:, :1]) / smallest).softmax(-1)
        if top_k is not None:
            p[:, top_k:] = 0
        if top_p is not None:  # keep a token while those before it hold less than top_p
            p = p / p.sum(-1, keepdim=True)
            p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0)
        return ids.gather(-1, torch.multinomial(p, 1, generator=generator)).squeeze(-1)

    return draw


def _compact(ids: Tensor, mask: Tensor | None, vocab: int) -> tuple[Tensor, Tensor]:
    """Return the rows' tokens moved to the left (B, longest), 0 behind them, and their lengths."""
    if ids.ndim != 2 or ids.numel() == 0 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise UserError(
            f"input_ids is {ids.dtype} {list(ids.shape)}; give integers (B, T), at least one token."
        )
    if mask is None:
        real = torch.ones_like(ids, dtype=torch.bool)
    else:
        if mask.shape != ids.shape or not ((mask == 0) | (mask == 1)).all():
            raise UserError(
                f"attention_mask {list(mask.shape)} must be of the shape of input_ids, "
                f"{list(ids.shape)}, with 1 at tokens and 0 at padding."
            )
        real = mask.to(ids.device).bool()
    lengths = real.sum(1)
    if empty := torch.nonzero(lengths == 0).flatten().tolist():
        raise UserError(f"rows {empty} of attention_mask are all padding; leave such rows out.")
    foreign = sorted(set(ids[real & ((ids < 0) | (ids >= vocab))].tolist()))
    if foreign:
        raise UserError(
            f"input_ids holds {', '.join(map(str, foreign[:5]))}"
            f"{', ...' if len(foreign) > 5 else ''}; the vocabulary's ids are 0..{vocab - 1}."
        )
    order = (~real).sort(dim=1, stable=True).indices[:, : int(lengths.max())]
    tokens = ids.masked_fill(~real, 0).gather(1, order)
    return tokens.long(), lengths


def _check_options(
    vocab: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    ends: list[int],
    chunk_size: int,
) -> None:
    allowed = {
        f"max_new_tokens = {max_new_tokens}: give at least 1": max_new_tokens >= 1,
        f"chunk_size = {chunk_size}: give at least 1 token": chunk_size >= 1,
        f"temperature = {temperature}: give 0 (the likeliest token) or a finite positive number": (
            math.isfinite(temperature) and temperature >= 0
        ),
        f"top_k = {top_k}: give at least 1, or None for all tokens": top_k is None or top_k >= 1,
        f"top_p = {top_p}: give a share in (0, 1], or None for all tokens": (
            top_p is None or 0 < top_p <= 1
        ),
        f"eos = {ends}: the vocabulary's ids are 0..{vocab - 1}": all(
            0 <= end < vocab for end in ends
        ),
    }
    if wrong := [message for message, good in allowed.items() if not good]:
        raise UserError("; ".join(wrong) + ".")
