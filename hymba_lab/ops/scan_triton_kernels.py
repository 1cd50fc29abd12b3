"""The selective scan as Triton kernels: one program a batch row and block of channels.

A program walks over the sequence chunk by chunk. Inside a chunk the recurrence is an associative
scan over (decay, drive), pairs that compose as (a, u) then (b, v) = (a b, b u + v); the state goes
from chunk to chunk in registers. Tiles are (BT steps, BD channels, BN states), all computed in
float32. `hymba_lab.ops.scan_triton` calls these; importing this module needs triton.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _compose(a, u, b, v):  # type: ignore[no-untyped-def]
    return a * b, b * u + v


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
def _tile(base, t, step, column, inside):  # type: ignore[no-untyped-def]
    """Elements (t, column) of one batch row in float32, 0 outside."""
    place = base + t[:, None].to(tl.int64) * step + column[None, :]
    return tl.load(place, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _vector(base, d, has_d, PRESENT: tl.constexpr, BD: tl.constexpr):  # type: ignore[no-untyped-def]
    """One value a channel in float32; 0 where the input is absent."""
    value = tl.zeros((BD,), tl.float32)
    if PRESENT:
        value = tl.load(base + d, mask=has_d, other=0.0).to(tl.float32)
    return value


@triton.jit
def _delta(base, t, step, d, bias, inside):  # type: ignore[no-untyped-def]
    """The step before softplus, and after it; 0, which changes no state, outside."""
    raw = _tile(base, t, step, d, inside) + bias[None, :]
    return raw, tl.where(inside, _softplus(raw), 0.0)


@triton.jit
def _decay(delta, a):  # type: ignore[no-untyped-def]
    """exp(delta A)."""
    return tl.exp2(delta[:, :, None] * (a * LOG2_E)[None, :, :])


@triton.jit
def _row(tile, index, BT: tl.constexpr):  # type: ignore[no-untyped-def]
    """The step `index` of a tile (BT, BD, BN)."""
    here = tl.arange(0, BT) == index
    return tl.sum(tl.where(here[:, None, None], tile, 0.0), 0)


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
    BT: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Write y (B, T, D), h_last (B, D, N) and, if KEEP, the state before every chunk."""
    row = tl.program_id(1).to(tl.int64)
    d, n = tl.program_id(0) * BD + tl.arange(0, BD), tl.arange(0, BN)
    has_d, has_n, size = d < n_channels, n < n_states, n_channels * n_states
    state, live = d[:, None] * n_states + n[None, :], has_d[:, None] & has_n[None, :]
    a = tl.load(A + state, mask=live, other=0.0).to(tl.float32)
    skip, bias = _vector(D, d, has_d, True, BD), _vector(dt_bias, d, has_d, HAS_BIAS, BD)
    h = tl.zeros((BD, BN), tl.float32)
    if HAS_H0:
        h = tl.load(h0 + row * size + state, mask=live, other=0.0).to(tl.float32)
    for chunk in range(n_chunks):
        if KEEP:
            tl.store(starts + (row * n_chunks + chunk) * size + state, h, mask=live)
        t = chunk * BT + tl.arange(0, BT)
        wide, narrow = (t < T)[:, None] & has_d[None, :], (t < T)[:, None] & has_n[None, :]
        xs = _tile(x + row * x_b, t, x_t, d, wide)
        _, delta = _delta(dt + row * dt_b, t, dt_t, d, bias, wide)
        Bs = _tile(B + row * B_b, t, B_t, n, narrow)
        Cs = _tile(C + row * C_b, t, C_t, n, narrow)
        drive = (delta * xs)[:, :, None] * Bs[:, None, :]
        reach, gained = tl.associative_scan((_decay(delta, a), drive), 0, _compose)
        H = reach * h[None, :, :] + gained
        ys = tl.sum(H * Cs[:, None, :], 2) + skip[None, :] * xs
        if HAS_Z:
            zs = _tile(z + row * z_b, t, z_t, d, wide)
            ys *= zs * _sigmoid(zs)
        place = (row * T + t[:, None]) * n_channels + d[None, :]
        tl.store(y + place, ys.to(y.dtype.element_ty), mask=wide)
        h = _row(H, BT - 1, BT)
    tl.store(h_last + row * size + state, h, mask=live)


@triton.jit
def backward(  # type: ignore[no-untyped-def]
    gy, gh, x, dt, A, B, C, D, z, dt_bias, starts,
    dx, ddt, dz, dB, dC, dA, dD, dbias, dh0,
    gy_b, gy_t, x_b, x_t, dt_b, dt_t, B_b, B_t, C_b, C_t, z_b, z_t,
    T, n_channels, n_states, n_chunks,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Write the gradients; dA, dD, dbias per batch row, dB and dC added to by every block.

    States h are made again from the state before the chunk. Their adjoints run backwards in time:
    g_t = C_t gy_t + exp(delta_{t+1} A) g_{t+1}; beyond the chunk that product arrives as `carry`.
    """
    row = tl.program_id(1).to(tl.int64)
    d, n = tl.program_id(0) * BD + tl.arange(0, BD), tl.arange(0, BN)
    has_d, has_n, size = d < n_channels, n < n_states, n_channels * n_states
    state, live = d[:, None] * n_states + n[None, :], has_d[:, None] & has_n[None, :]
    a = tl.load(A + state, mask=live, other=0.0).to(tl.float32)
    skip, bias = _vector(D, d, has_d, True, BD), _vector(dt_bias, d, has_d, HAS_BIAS, BD)
    carry = tl.load(gh + row * size + state, mask=live, other=0.0)
    sum_A = tl.zeros((BD, BN), tl.float32)
    sum_D, sum_bias = tl.zeros((BD,), tl.float32), tl.zeros((BD,), tl.float32)
    x_row, dt_row, B_row = x + row * x_b, dt + row * dt_b, B + row * B_b
    for back in range(n_chunks):
        chunk = n_chunks - 1 - back
        first = chunk * BT
        t = first + tl.arange(0, BT)
        wide, narrow = (t < T)[:, None] & has_d[None, :], (t < T)[:, None] & has_n[None, :]
        xs = _tile(x_row, t, x_t, d, wide)
        raw, delta = _delta(dt_row, t, dt_t, d, bias, wide)
        drive = delta * xs
        Bs = _tile(B_row, t, B_t, n, narrow)
        Cs = _tile(C + row * C_b, t, C_t, n, narrow)
        # the state before every step: the recurrence over the inputs of the step before
        known = (t > first)[:, None]
        _, delta_past = _delta(dt_row, t - 1, dt_t, d, bias, wide & known)
        drive_past = delta_past * _tile(x_row, t - 1, x_t, d, wide & known)
        B_past = _tile(B_row, t - 1, B_t, n, narrow & known)
        past = (_decay(delta_past, a), drive_past[:, :, None] * B_past[:, None, :])
        reach, gained = tl.associative_scan(past, 0, _compose)
        h = tl.load(starts + (row * n_chunks + chunk) * size + state, mask=live, other=0.0)
        before = reach * h[None, :, :] + gained
        decay = _decay(delta, a)
        H = decay * before + drive[:, :, None] * Bs[:, None, :]
        # what arrives at y, the adjoint of the state after every step, and what both make of it
        gys = _tile(gy + row * gy_b, t, gy_t, d, wide)
        place = (row * T + t[:, None]) * n_channels + d[None, :]
        if HAS_Z:
            ys = tl.sum(H * Cs[:, None, :], 2) + skip[None, :] * xs
            gys, dzs = _gated(gys, ys, _tile(z + row * z_b, t, z_t, d, wide))
            tl.store(dz + place, dzs.to(dz.dtype.element_ty), mask=wide)
        going_on = wide & ((t + 1 < T) & (t + 1 < first + BT))[:, None]
        _, delta_next = _delta(dt_row, t + 1, dt_t, d, bias, going_on)
        arriving = (_decay(delta_next, a), gys[:, :, None] * Cs[:, None, :])
        reach, gained = tl.associative_scan(arriving, 0, _compose, reverse=True)
        g = reach * carry[None, :, :] + gained
        d_log = g * decay * before  # gradient of delta A
        d_drive = tl.sum(g * Bs[:, None, :], 2)
        d_raw = (tl.sum(d_log * a[None, :, :], 2) + d_drive * xs) * _sigmoid(raw)
        d_x = d_drive * delta + gys * skip[None, :]
        tl.store(dx + place, d_x.to(dx.dtype.element_ty), mask=wide)
        tl.store(ddt + place, d_raw.to(ddt.dtype.element_ty), mask=wide)
        spot = (row * T + t[:, None]) * n_states + n[None, :]
        tl.atomic_add(dB + spot, tl.sum(g * drive[:, :, None], 1), mask=narrow)
        tl.atomic_add(dC + spot, tl.sum(H * gys[:, :, None], 1), mask=narrow)
        sum_A += tl.sum(d_log * delta[:, :, None], 0)
        sum_D += tl.sum(tl.where(wide, gys * xs, 0.0), 0)
        sum_bias += tl.sum(tl.where(wide, d_raw, 0.0), 0)
        carry = _row(decay * g, 0, BT)
    tl.store(dh0 + row * size + state, carry, mask=live)
    tl.store(dA + row * size + state, sum_A, mask=live)
    tl.store(dD + row * n_channels + d, sum_D, mask=has_d)
    tl.store(dbias + row * n_channels + d, sum_bias, mask=has_d)
