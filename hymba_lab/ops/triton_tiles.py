"""Parts of Triton kernels: functions of one element, and tiles (BT, ...) step by step.

Importing this module needs triton.
"""

import os

import triton
import triton.language as tl
from triton.language.extra import libdevice

LOG2_E = tl.constexpr(1.4426950408889634)


INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def power(value):  # type: ignore[no-untyped-def]
    """2^value by one instruction, 0 below 2^-126; the interpreter knows only the longer way."""
    power = value
    if INTERPRETED:
        power = tl.exp2(value)
    if not INTERPRETED:
        power = libdevice.exp2(value)
    return power


@triton.jit
def over(value, divisor):  # type: ignore[no-untyped-def]
    """value / divisor to one unit in the last place, for divisors from 1 on."""
    share = value
    if INTERPRETED:
        share = value / divisor
    if not INTERPRETED:
        share = libdevice.fast_dividef(value, divisor)
    return share


@triton.jit
def softplus(raw):  # type: ignore[no-untyped-def]
    """log(1 + e^raw) = max(raw, 0) + log(1 + e), e = e^-|raw|.

    log(1 + e) / e is a polynomial, the best of its degree on [0, 1] (Remez): 2e-7 off at most,
    in fewer instructions than a logarithm and a division.
    """
    e = power(-tl.abs(raw) * LOG2_E)
    p = e * 0.0052326940931379795 - 0.02950523979961872
    p = p * e + 0.07822595536708832
    p = p * e - 0.13663245737552643
    p = p * e + 0.19106006622314453
    p = p * e - 0.2484298199415207
    p = p * e + 0.3331909775733948
    p = p * e - 0.4999949336051941
    p = p * e + 0.9999999403953552
    return tl.maximum(raw, 0.0) + e * p


@triton.jit
def sigmoid(value):  # type: ignore[no-untyped-def]
    """1 / (1 + e^-value)."""
    e = power(-tl.abs(value) * LOG2_E)
    return over(tl.where(value >= 0.0, 1.0, e), 1.0 + e)


@triton.jit
def far(index, size):  # type: ignore[no-untyped-def]
    """index * size, which may pass 2^31."""
    return tl.full((), 1, tl.int64) * index * size


@triton.jit
def read(base, chunk, step, at, inside, BT: tl.constexpr):  # type: ignore[no-untyped-def]
    """BT steps of a chunk as they are stored, 0 outside."""
    return tl.load(base + far(chunk, BT * step) + at, mask=inside, other=0.0)


@triton.jit
def channels(BD: tl.constexpr):  # type: ignore[no-untyped-def]
    """The channels of this program, one a thread.

    Triton gives neighbours in memory to one thread, as many as are aligned. What is told here about
    contiguity and alignment keeps it to one, and makes the threads lie along channels: along
    states, every sum over states would cross them.
    """
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    return tl.multiple_of(tl.max_contiguous(d, [BD]), [1])


@triton.jit
def across(places):  # type: ignore[no-untyped-def]
    """Places of a tile (states, channels), told to be read along channels like `channels`."""
    return tl.multiple_of(tl.max_contiguous(places, [1, 2]), [1, 1])


@triton.jit
def vector(base, d, has_d, PRESENT: tl.constexpr, BD: tl.constexpr):  # type: ignore[no-untyped-def]
    """One value a channel in float32; 0 where the input is absent."""
    value = tl.zeros((BD,), tl.float32)
    if PRESENT:
        value = tl.load(base + d, mask=has_d, other=0.0).to(tl.float32)
    return value


@triton.jit
def for_all(tile, BT: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr):  # type: ignore[no-untyped-def]
    """A tile (BT, BN) in float32 for every channel, (BT, BN, BD): each thread gets all of it."""
    return tl.broadcast_to(tile.to(tl.float32)[:, :, None], (BT, BN, BD))


@triton.jit
def at_step(tile, index, BT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Step `index` of a tile (BT, X), by its bits as whole numbers: adding zeros is no work."""
    here = (tl.arange(0, BT) == index)[:, None]
    bits = tl.where(here, tile.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 0).to(tl.float32, bitcast=True)


@triton.jit
def states_at(tile, index, BT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Step `index` of a tile (BT, BN, BD)."""
    here = (tl.arange(0, BT) == index)[:, None, None]
    bits = tl.where(here, tile.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 0).to(tl.float32, bitcast=True)


@triton.jit
def put(tile, index, row, BT: tl.constexpr):  # type: ignore[no-untyped-def]
    """The tile (BT, X) with `row` as its step `index`."""
    return tl.where((tl.arange(0, BT) == index)[:, None], row[None, :], tile)


@triton.jit
def put_state(tile, index, state, BT: tl.constexpr):  # type: ignore[no-untyped-def]
    """The tile (BT, BN, BD) with `state` as its step `index`."""
    return tl.where((tl.arange(0, BT) == index)[:, None, None], state[None, :, :], tile)
