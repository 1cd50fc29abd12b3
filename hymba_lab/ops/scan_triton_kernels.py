"""The selective scan as Triton kernels: one program a batch row and block of channels.

A program walks over the sequence chunk by chunk, and inside a chunk step by step: h = decay h +
drive. Tiles are (BT steps, E, BN states, BD channels), E BD channels a program, all computed in
float32. A warp's threads lie along channels and states, so a thread owns every step of its states
and takes "rows" of a tile from its own registers; sums over states and channels cross few threads.
`hymba_lab.ops.scan_triton` calls these; importing this module needs triton.
"""

import os

import triton
import triton.language as tl
from triton.language.extra import libdevice

LOG2_E = tl.constexpr(1.4426950408889634)


INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def _power(value):  # type: ignore[no-untyped-def]
    """2^value by one instruction, 0 below 2^-126; the interpreter knows only the longer way."""
    power = value
    if INTERPRETED:
        power = tl.exp2(value)
    if not INTERPRETED:
        power = libdevice.exp2(value)
    return power


@triton.jit
def _softplus(raw):  # type: ignore[no-untyped-def]
    """log(1 + e^raw); log(1 + e) = log(w) e / (w - 1) with w the rounded 1 + e keeps small e."""
    e = tl.exp(-tl.abs(raw))
    w = 1.0 + e
    log1p = tl.where(w == 1.0, e, tl.log(w) * (e / tl.where(w == 1.0, 1.0, w - 1.0)))
    return tl.maximum(raw, 0.0) + log1p


@triton.jit
def _sigmoid(value):  # type: ignore[no-untyped-def]
    e = tl.exp(-tl.abs(value))
    return tl.where(value >= 0.0, 1.0, e) / (1.0 + e)


@triton.jit
def _wide(base, t, step, d, inside):  # type: ignore[no-untyped-def]
    """Elements (t, channels d) of one batch row in float32, 0 outside."""
    place = base + t[:, None, None].to(tl.int64) * step + d[None, :, :]
    return tl.load(place, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _narrow(base, t, step, n, inside):  # type: ignore[no-untyped-def]
    """Elements (t, states n) of one batch row in float32, 0 outside."""
    place = base + t[:, None].to(tl.int64) * step + n[None, :]
    return tl.load(place, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _vector(base, d, has_d, PRESENT: tl.constexpr, E: tl.constexpr, BD: tl.constexpr):  # type: ignore[no-untyped-def]
    """One value a channel in float32; 0 where the input is absent."""
    value = tl.zeros((E, BD), tl.float32)
    if PRESENT:
        value = tl.load(base + d, mask=has_d, other=0.0).to(tl.float32)
    return value


@triton.jit
def _row(tile, index, BT: tl.constexpr):  # type: ignore[no-untyped-def]
    """The step `index` of a tile, by its bits as whole numbers: to add zeros to them is no work."""
    here = (tl.arange(0, BT) == index)[:, None, None, None]
    bits = tl.where(here, tile.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 0, keep_dims=True).to(tl.float32, bitcast=True)


@triton.jit
def _put(tile, index, row, BT: tl.constexpr):  # type: ignore[no-untyped-def]
    """The tile with `row` as its step `index`."""
    return tl.where((tl.arange(0, BT) == index)[:, None, None, None], row, tile)


@triton.jit
def _gated(gy, ys, zs):  # type: ignore[no-untyped-def]
    """What arrives before the gate y SiLU(z), and at z."""
    gate = _sigmoid(zs)
    return gy * zs * gate, gy * ys * gate * (1.0 + zs * (1.0 - gate))


@triton.jit
def forward(  # type: ignore[no-untyped-def]
    x, dt, A, B, C, D, z, dt_bias, h0, y, h_last, starts,
    x_b, x_t, dt_b, dt_t, B_b, B_t, C_b, C_t, z_b, z_t,
    T, n_channels, n_states, n_chunks,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_H0: tl.constexpr, KEEP: tl.constexpr,
    BT: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Write y (B, T, D), h_last (B, D, N) and, if KEEP, the state (N, D) before every chunk."""
    row = tl.program_id(1).to(tl.int64)
    d = tl.program_id(0) * E * BD + tl.arange(0, E)[:, None] * BD + tl.arange(0, BD)[None, :]
    n = tl.arange(0, BN)
    has_d, has_n, size = d < n_channels, n < n_states, n_channels * n_states
    state = d[None, :, None, :] * n_states + n[None, None, :, None]
    kept = n[None, None, :, None] * n_channels + d[None, :, None, :]
    live = has_d[None, :, None, :] & has_n[None, None, :, None]
    a = tl.load(A + state, mask=live, other=0.0).to(tl.float32) * LOG2_E
    skip, bias = _vector(D, d, has_d, True, E, BD), _vector(dt_bias, d, has_d, HAS_BIAS, E, BD)
    h = tl.zeros((1, E, BN, BD), tl.float32)
    if HAS_H0:
        h = tl.load(h0 + row * size + state, mask=live, other=0.0).to(tl.float32)
    for chunk in range(n_chunks):
        if KEEP:
            tl.store(starts + (row * n_chunks + chunk) * size + kept, h, mask=live)
        t = chunk * BT + tl.arange(0, BT)
        wide = (t < T)[:, None, None] & has_d[None, :, :]
        narrow = (t < T)[:, None] & has_n[None, :]
        xs = _wide(x + row * x_b, t, x_t, d, wide)
        raw = _wide(dt + row * dt_b, t, dt_t, d, wide) + bias[None, :, :]
        if HAS_Z:
            zs = _wide(z + row * z_b, t, z_t, d, wide)
        Bs = _narrow(B + row * B_b, t, B_t, n, narrow)
        Cs = _narrow(C + row * C_b, t, C_t, n, narrow)
        delta = tl.where(wide, _softplus(raw), 0.0)
        decay = _power(delta[:, :, None, :] * a)
        driven = (delta * xs)[:, :, None, :] * Bs[:, None, :, None]
        H = tl.zeros((BT, E, BN, BD), tl.float32)
        for i in tl.static_range(BT):
            h = _row(decay, i, BT) * h + _row(driven, i, BT)
            H = _put(H, i, h, BT)
        ys = tl.sum(H * Cs[:, None, :, None], 2) + skip[None, :, :] * xs
        if HAS_Z:
            ys *= zs * _sigmoid(zs)
        place = (row * T + t[:, None, None]) * n_channels + d[None, :, :]
        tl.store(y + place, ys.to(y.dtype.element_ty), mask=wide)
    tl.store(h_last + row * size + state, h, mask=live)


@triton.jit
def backward(  # type: ignore[no-untyped-def]
    gy, gh, x, dt, A, B, C, D, z, dt_bias, starts,
    dx, ddt, dz, dB, dC, dA, dD, dbias, dh0,
    gy_b, gy_t, x_b, x_t, dt_b, dt_t, B_b, B_t, C_b, C_t, z_b, z_t,
    T, n_channels, n_states, n_chunks,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    BT: tl.constexpr, E: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Write the gradients; dA, dD, dbias per batch row, dB and dC added to by every block.

    States h are made again from the state before the chunk. Their adjoints run backwards in time:
    g_t = C_t gy_t + carry, with carry = exp(delta_{t+1} A) g_{t+1}. States are read in three
    dimensions: read in four, they would bring a layout of their own and all would be done twice.
    """
    row = tl.program_id(1).to(tl.int64)
    d = tl.program_id(0) * E * BD + tl.arange(0, E)[:, None] * BD + tl.arange(0, BD)[None, :]
    n = tl.arange(0, BN)
    has_d, has_n, size = d < n_channels, n < n_states, n_channels * n_states
    state = d[:, None, :] * n_states + n[None, :, None]
    kept = n[None, :, None] * n_channels + d[:, None, :]
    live = has_d[:, None, :] & has_n[None, :, None]
    a = tl.load(A + state, mask=live, other=0.0).to(tl.float32)[None, :, :, :]
    skip, bias = _vector(D, d, has_d, True, E, BD), _vector(dt_bias, d, has_d, HAS_BIAS, E, BD)
    carry = tl.load(gh + row * size + state, mask=live, other=0.0)[None, :, :, :]
    sum_A = tl.zeros((1, E, BN, BD), tl.float32)
    sum_D, sum_bias = tl.zeros((E, BD), tl.float32), tl.zeros((E, BD), tl.float32)
    for back in range(n_chunks):
        chunk = n_chunks - 1 - back
        t = chunk * BT + tl.arange(0, BT)
        wide = (t < T)[:, None, None] & has_d[None, :, :]
        narrow = (t < T)[:, None] & has_n[None, :]
        xs = _wide(x + row * x_b, t, x_t, d, wide)
        raw = _wide(dt + row * dt_b, t, dt_t, d, wide) + bias[None, :, :]
        gys = _wide(gy + row * gy_b, t, gy_t, d, wide)
        Bs = _narrow(B + row * B_b, t, B_t, n, narrow)
        Cs = _narrow(C + row * C_b, t, C_t, n, narrow)
        start = starts + (row * n_chunks + chunk) * size
        h = tl.load(start + kept, mask=live, other=0.0)[None, :, :, :]
        delta = tl.where(wide, _softplus(raw), 0.0)
        drive = delta * xs
        # the states before and after every step
        decay = _power(delta[:, :, None, :] * (a * LOG2_E))
        driven = drive[:, :, None, :] * Bs[:, None, :, None]
        before = tl.zeros((BT, E, BN, BD), tl.float32)
        for i in tl.static_range(BT):
            before = _put(before, i, h, BT)
            h = _row(decay, i, BT) * h + _row(driven, i, BT)
        H = decay * before + driven
        # what arrives at y, the adjoint of the state after every step, and what both make of it
        place = (row * T + t[:, None, None]) * n_channels + d[None, :, :]
        if HAS_Z:
            ys = tl.sum(H * Cs[:, None, :, None], 2) + skip[None, :, :] * xs
            gys, dzs = _gated(gys, ys, _wide(z + row * z_b, t, z_t, d, wide))
            tl.store(dz + place, dzs.to(dz.dtype.element_ty), mask=wide)
        seen = gys[:, :, None, :] * Cs[:, None, :, None]
        g = tl.zeros((BT, E, BN, BD), tl.float32)
        for back_i in tl.static_range(BT):
            here = _row(seen, BT - 1 - back_i, BT) + carry
            g = _put(g, BT - 1 - back_i, here, BT)
            carry = _row(decay, BT - 1 - back_i, BT) * here
        d_log = g * decay * before  # gradient of delta A
        d_drive = tl.sum(g * Bs[:, None, :, None], 2)
        d_raw = (tl.sum(d_log * a, 2) + d_drive * xs) * _sigmoid(raw)
        d_x = d_drive * delta + gys * skip[None, :, :]
        tl.store(dx + place, d_x.to(dx.dtype.element_ty), mask=wide)
        tl.store(ddt + place, d_raw.to(ddt.dtype.element_ty), mask=wide)
        spot = (row * T + t[:, None]) * n_states + n[None, :]
        to_B = tl.sum(tl.sum(g * drive[:, :, None, :], 1), 2)
        to_C = tl.sum(tl.sum(H * gys[:, :, None, :], 1), 2)
        tl.atomic_add(dB + spot, to_B, mask=narrow, sem="relaxed")
        tl.atomic_add(dC + spot, to_C, mask=narrow, sem="relaxed")
        sum_A += tl.sum(d_log * delta[:, :, None, :], 0, keep_dims=True)
        sum_D += tl.sum(tl.where(wide, gys * xs, 0.0), 0)
        sum_bias += tl.sum(tl.where(wide, d_raw, 0.0), 0)
    tl.store(dh0 + row * size + state, tl.reshape(carry, (E, BN, BD)), mask=live)
    tl.store(dA + row * size + state, tl.reshape(sum_A, (E, BN, BD)), mask=live)
    tl.store(dD + row * n_channels + d, sum_D, mask=has_d)
    tl.store(dbias + row * n_channels + d, sum_bias, mask=has_d)
