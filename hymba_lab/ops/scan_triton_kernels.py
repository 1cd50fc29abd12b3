"""The selective scan as Triton kernels: one program a batch row and block of channels.

A program walks over the sequence step by step: h = decay h + drive. Its tiles are (BN states,
BD channels), BT steps of the inputs being read at once; all is computed in float32. A thread owns a
channel, or few share it, so nearly all sums over states stay inside a thread.
`hymba_lab.ops.scan_triton` calls these; importing this module needs triton.
"""

import triton
import triton.language as tl

from hymba_lab.ops.triton_tiles import (
    LOG2_E,
    across,
    at_step,
    channels,
    far,
    for_all,
    power,
    put,
    put_state,
    read,
    sigmoid,
    softplus,
    states_at,
    vector,
)  # fmt: skip


@triton.jit
def forward(  # type: ignore[no-untyped-def]
    x, dt, A, B, C, D, z, dt_bias, h0, y, h_last, starts,
    x_b, x_t, dt_b, dt_t, B_b, B_t, C_b, C_t, z_b, z_t,
    T, n_channels, n_states, n_chunks,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_H0: tl.constexpr, KEEP: tl.constexpr,
    BT: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Write y (B, T, D), h_last (B, D, N) and, if KEEP, the state (N, D) before every chunk.

    The inputs of a chunk are asked for while the chunk before it is computed.
    """
    row = tl.program_id(1).to(tl.int64)
    d, n, i = channels(BD), tl.max_contiguous(tl.arange(0, BN), [1]), tl.arange(0, BT)
    has_d, has_n, size = d < n_channels, n < n_states, n_channels * n_states
    state = across(d[None, :] * n_states + n[:, None])
    kept = n[:, None] * n_channels + d[None, :]
    live = has_d[None, :] & has_n[:, None]
    a = tl.load(A + state, mask=live, other=0.0).to(tl.float32) * LOG2_E
    skip, bias = vector(D, d, has_d, True, BD), vector(dt_bias, d, has_d, HAS_BIAS, BD)
    h = tl.zeros((BN, BD), tl.float32)
    if HAS_H0:
        h = tl.load(h0 + row * size + state, mask=live, other=0.0).to(tl.float32)
    x, dt, z, B, C = x + row * x_b, dt + row * dt_b, z + row * z_b, B + row * B_b, C + row * C_b
    y += row * T * n_channels
    at_x, at_dt = i[:, None] * x_t + d[None, :], i[:, None] * dt_t + d[None, :]
    at_z, at_y = i[:, None] * z_t + d[None, :], i[:, None] * n_channels + d[None, :]
    at_B, at_C = i[:, None] * B_t + n[None, :], i[:, None] * C_t + n[None, :]
    wide = (i < T)[:, None] & has_d[None, :]
    narrow = (i < T)[:, None] & has_n[None, :]
    next_x, next_dt = read(x, 0, x_t, at_x, wide, BT), read(dt, 0, dt_t, at_dt, wide, BT)
    next_B, next_C = read(B, 0, B_t, at_B, narrow, BT), read(C, 0, C_t, at_C, narrow, BT)
    next_z = next_x
    if HAS_Z:
        next_z = read(z, 0, z_t, at_z, wide, BT)
    for chunk in range(n_chunks):
        if KEEP:
            tl.store(starts + (row * n_chunks + chunk) * size + kept, h, mask=live)
        inside = wide
        xs, raw = next_x.to(tl.float32), next_dt.to(tl.float32) + bias[None, :]
        Bs, Cs = for_all(next_B, BT, BN, BD), for_all(next_C, BT, BN, BD)
        zs = next_z.to(tl.float32)
        left = T - (chunk + 1) * BT
        wide = (i < left)[:, None] & has_d[None, :]
        narrow = (i < left)[:, None] & has_n[None, :]
        next_x = read(x, chunk + 1, x_t, at_x, wide, BT)
        next_dt = read(dt, chunk + 1, dt_t, at_dt, wide, BT)
        next_B = read(B, chunk + 1, B_t, at_B, narrow, BT)
        next_C = read(C, chunk + 1, C_t, at_C, narrow, BT)
        if HAS_Z:
            next_z = read(z, chunk + 1, z_t, at_z, wide, BT)
        delta = tl.where(inside, softplus(raw), 0.0)
        drive = delta * xs
        ys = skip[None, :] * xs
        for step in tl.static_range(BT):
            decay = power(at_step(delta, step, BT)[None, :] * a)
            h = decay * h + at_step(drive, step, BT)[None, :] * states_at(Bs, step, BT)
            seen = tl.sum(h * states_at(Cs, step, BT), 0)
            ys += tl.where((i == step)[:, None], seen[None, :], 0.0)
        if HAS_Z:
            ys *= zs * sigmoid(zs)
        place = y + far(chunk, BT * n_channels) + at_y
        tl.store(place, ys.to(y.dtype.element_ty), mask=inside)
    tl.store(h_last + row * size + state, h, mask=live)


@triton.jit
def backward(  # type: ignore[no-untyped-def]
    gy, gh, x, dt, A, B, C, D, z, dt_bias, starts,
    dx, ddt, dz, dB, dC, dA, dD, dbias, dh0,
    gy_b, gy_t, x_b, x_t, dt_b, dt_t, B_b, B_t, C_b, C_t, z_b, z_t,
    T, n_channels, n_states, n_chunks,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, EXACT: tl.constexpr,
    PARTS: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Write the gradients; dA, dD, dbias per batch row, dB and dC added to by every block.

    A chunk is taken in PARTS of BT steps. States h are made again from the state before the chunk.
    Their adjoints run backwards in time: g_t = C_t gy_t + carry, with
    carry = exp(delta_{t+1} A) g_{t+1}.
    """
    row = tl.program_id(1).to(tl.int64)
    d, n, i = channels(BD), tl.max_contiguous(tl.arange(0, BN), [1]), tl.arange(0, BT)
    has_d, has_n, size = d < n_channels, n < n_states, n_channels * n_states
    state = across(d[None, :] * n_states + n[:, None])
    kept = n[:, None] * n_channels + d[None, :]
    live = has_d[None, :] & has_n[:, None]
    a = tl.load(A + state, mask=live, other=0.0).to(tl.float32)
    skip, bias = vector(D, d, has_d, True, BD), vector(dt_bias, d, has_d, HAS_BIAS, BD)
    carry = tl.load(gh + row * size + state, mask=live, other=0.0)
    sum_A = tl.zeros((BN, BD), tl.float32)
    sum_D, sum_bias = tl.zeros((BD,), tl.float32), tl.zeros((BD,), tl.float32)
    gy, x, dt, z = gy + row * gy_b, x + row * x_b, dt + row * dt_b, z + row * z_b
    B, C, starts = B + row * B_b, C + row * C_b, starts + row * n_chunks * size
    dx, ddt, dz = dx + row * T * n_channels, ddt + row * T * n_channels, dz + row * T * n_channels
    at_x, at_dt = i[:, None] * x_t + d[None, :], i[:, None] * dt_t + d[None, :]
    at_z, at_gy = i[:, None] * z_t + d[None, :], i[:, None] * gy_t + d[None, :]
    at_B, at_C = i[:, None] * B_t + n[None, :], i[:, None] * C_t + n[None, :]
    at_wide = i[:, None] * n_channels + d[None, :]
    # sums over channels, which lie across threads, as products with ones: column 0 sums for dB,
    # column 1 for dC
    column, of_pair, m = tl.arange(0, 8), tl.arange(0, 2 * BD) % 2, tl.arange(0, BT * BN)
    ones = tl.where(column[None, :] == of_pair[:, None], 1.0, 0.0)
    at_sums = row * T * n_states + (m // BN * n_states + m % BN)[:, None]
    sums_to = tl.where(column[None, :] == 0, dB + at_sums, dC + at_sums)
    has_sum = (column < 2)[None, :] & (m % BN < n_states)[:, None]
    n_parts = tl.cdiv(T, BT)
    for back in range(n_parts):
        part = n_parts - 1 - back
        left = T - part * BT
        wide = (i < left)[:, None] & has_d[None, :]
        narrow = (i < left)[:, None] & has_n[None, :]
        chunk = part // PARTS
        start = tl.load(starts + far(chunk, size) + kept, mask=live, other=0.0)
        # asked for before the first of them is needed
        asked_x = read(x, part, x_t, at_x, wide, BT)
        asked_dt = read(dt, part, dt_t, at_dt, wide, BT)
        asked_B = read(B, part, B_t, at_B, narrow, BT)
        asked_C = read(C, part, C_t, at_C, narrow, BT)
        asked_gy = read(gy, part, gy_t, at_gy, wide, BT)
        asked_z = asked_x
        if HAS_Z:
            asked_z = read(z, part, z_t, at_z, wide, BT)
        for earlier in range(chunk * PARTS, part):
            near = has_d[None, :] & (i >= 0)[:, None]
            raw = read(dt, earlier, dt_t, at_dt, near, BT).to(tl.float32) + bias[None, :]
            delta = softplus(raw)
            drive = delta * read(x, earlier, x_t, at_x, near, BT).to(tl.float32)
            all_n = has_n[None, :] & (i >= 0)[:, None]
            Bs = for_all(read(B, earlier, B_t, at_B, all_n, BT), BT, BN, BD)
            for step in tl.static_range(BT):
                decay = power(at_step(delta, step, BT)[None, :] * (a * LOG2_E))
                start = decay * start + at_step(drive, step, BT)[None, :] * states_at(Bs, step, BT)
        xs, gys = asked_x.to(tl.float32), asked_gy.to(tl.float32)
        raw = asked_dt.to(tl.float32) + bias[None, :]
        Bs, Cs = for_all(asked_B, BT, BN, BD), for_all(asked_C, BT, BN, BD)
        delta = tl.where(wide, softplus(raw), 0.0)
        drive = delta * xs
        H, decays, seen = _states(start, delta, drive, a, Bs, Cs, HAS_Z, BT, BD, BN)
        place = far(part, BT * n_channels) + at_wide
        if HAS_Z:  # what arrives before the gate y SiLU(z), and at z
            zs = asked_z.to(tl.float32)
            gate = sigmoid(zs)
            ys = skip[None, :] * xs + seen
            dzs = gys * ys * gate * (1.0 + zs * (1.0 - gate))
            tl.store(dz + place, dzs.to(dz.dtype.element_ty), mask=wide)
            gys *= zs * gate
        carry, sum_A, d_delta, d_drive, to_B, to_C = _adjoints(
            start, H, decays, carry, sum_A, gys, delta, drive, a, Bs, Cs, BT, BD, BN
        )
        pairs = tl.reshape(tl.join(to_B, to_C), (BT * BN, 2 * BD))
        sums = tl.dot(pairs, ones, input_precision="tf32x3" if EXACT else "tf32")
        spot = sums_to + far(part, BT * n_states)
        tl.atomic_add(spot, sums, mask=has_sum & (m // BN < left)[:, None], sem="relaxed")
        d_raw = (d_delta + d_drive * xs) * sigmoid(raw)
        d_x = d_drive * delta + gys * skip[None, :]
        tl.store(dx + place, d_x.to(dx.dtype.element_ty), mask=wide)
        tl.store(ddt + place, d_raw.to(ddt.dtype.element_ty), mask=wide)
        sum_D += tl.sum(tl.where(wide, gys * xs, 0.0), 0)
        sum_bias += tl.sum(tl.where(wide, d_raw, 0.0), 0)
    tl.store(dh0 + row * size + state, carry, mask=live)
    tl.store(dA + row * size + state, sum_A, mask=live)
    tl.store(dD + row * n_channels + d, sum_D, mask=has_d)
    tl.store(dbias + row * n_channels + d, sum_bias, mask=has_d)


@triton.jit
def _states(  # type: ignore[no-untyped-def]
    h, delta, drive, a, Bs, Cs,
    SEE: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Return the states after every step, what led to each, and if SEE what C sees of them."""
    H, decays = tl.zeros((BT, BN, BD), tl.float32), tl.zeros((BT, BN, BD), tl.float32)
    seen = tl.zeros((BT, BD), tl.float32)
    for step in tl.static_range(BT):
        decay = power(at_step(delta, step, BT)[None, :] * (a * LOG2_E))
        h = decay * h + at_step(drive, step, BT)[None, :] * states_at(Bs, step, BT)
        H, decays = put_state(H, step, h, BT), put_state(decays, step, decay, BT)
        if SEE:
            seen = put(seen, step, tl.sum(h * states_at(Cs, step, BT), 0), BT)
    return H, decays, seen


@triton.jit
def _adjoints(  # type: ignore[no-untyped-def]
    start, H, decays, carry, sum_A, gys, delta, drive, a, Bs, Cs,
    BT: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Return the carry to the part before, sum_A with its gradient of A, and the gradients of
    delta, drive, B and C, of these two not yet summed over the channels.
    """
    d_delta, d_drive = tl.zeros((BT, BD), tl.float32), tl.zeros((BT, BD), tl.float32)
    to_B, to_C = tl.zeros((BT, BN, BD), tl.float32), tl.zeros((BT, BN, BD), tl.float32)
    for step in tl.static_range(BT - 1, -1, -1):
        before = start
        if step > 0:
            before = states_at(H, step - 1, BT)
        gy_step = at_step(gys, step, BT)[None, :]
        g = gy_step * states_at(Cs, step, BT) + carry
        carry = states_at(decays, step, BT) * g
        d_log = carry * before  # gradient of delta A
        sum_A += d_log * at_step(delta, step, BT)[None, :]
        d_delta = put(d_delta, step, tl.sum(d_log * a, 0), BT)
        d_drive = put(d_drive, step, tl.sum(g * states_at(Bs, step, BT), 0), BT)
        to_B = put_state(to_B, step, g * at_step(drive, step, BT)[None, :], BT)
        to_C = put_state(to_C, step, states_at(H, step, BT) * gy_step, BT)
    return carry, sum_A, d_delta, d_drive, to_B, to_C
