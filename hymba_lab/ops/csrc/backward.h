// Gradients of one group of channels: chunks from the last to the first, states recomputed inside.
//
//   g_t        = C_t grad_y_t + exp(delta_{t+1} A) g_{t+1}     gradient of h_t, the adjoint state
//   e_t        = exp(delta_t A) h_{t-1} g_t                    gradient of delta_t A
//   grad_A     = sum_t e_t delta_t        grad_B_t = sum_d g_t delta_t x_t
//   grad_delta = sum_n e_t A + g_t B_t x_t    grad_C_t = sum_d grad_y_t h_t
//   grad_x     = D grad_y + delta_t sum_n g_t B_t
#pragma once

#include "tasks.h"

// What one block gathers over its states, for every step of a chunk.
struct Sums {
  Vec slope[CHUNK];     // d delta / d dt
  Vec grad_y[CHUNK];    // gradient of C h + D x: the gate taken off
  Vec exponent[CHUNK];  // sum_n e_t A log2(e)
  Vec drive[CHUNK];     // gradient of delta x
};

// Where a block's backward adds to: its own running sums (N), and those of the chunk (CHUNK, N),
// whose lanes are added up when all blocks of the group are through.
struct Carried {
  Vec *adjoint, *A;
  Vec *B, *C;
  Vec *D, *bias;
};

// decay_t = exp(delta_t A) and the states h_{-1}, h_0 ... of K states of a block over one chunk.
template <int K>
INLINE void recompute_states(long N, const float* B, const float* C, const Vec* rate, Inputs& in,
                             Vec (*decay)[K], Vec (*states)[K]) {
  Vec h[K];
  UNROLL for (int n = 0; n < K; n++) h[n] = states[0][n];
  for (int t = 0; t < in.steps; t++) {
    const Vec delta = in.delta[t], drive = in.drive[t];
    Vec y = in.y[t];
    UNROLL for (int n = 0; n < K; n++) {
      decay[t][n] = exp2(delta * rate[n]);
      h[n] = decay[t][n] * h[n] + drive * B[t * N + n];
      states[t + 1][n] = h[n];
      y += h[n] * C[t * N + n];
    }
    in.y[t] = y;
  }
}

template <int K>
INLINE void backward_states(long N, const float* B, const float* C, const Vec* rates,
                            const float* start, Inputs& in, Sums& sums, Carried to) {
  Vec decay[CHUNK][K], states[CHUNK + 1][K], rate[K], adjoint[K], grad_A[K];
  UNROLL for (int n = 0; n < K; n++) {
    rate[n] = rates[n];
    states[0][n] = load(start + n * LANES);
    adjoint[n] = to.adjoint[n];
    grad_A[n] = Vec{};  // a chunk's own sum first: short sums round less than one long sum
  }
  recompute_states<K>(N, B, C, rate, in, decay, states);
  for (int t = in.steps - 1; t >= 0; t--) {
    const Vec delta = in.delta[t], drive = in.drive[t], grad_y = sums.grad_y[t];
    Vec exponent = sums.exponent[t], grad_drive = sums.drive[t];
    UNROLL for (int n = 0; n < K; n++) {
      const Vec g = adjoint[n] + grad_y * C[t * N + n];
      to.C[t * N + n] += grad_y * states[t + 1][n];
      to.B[t * N + n] += g * drive;
      grad_drive += g * B[t * N + n];
      adjoint[n] = g * decay[t][n];
      const Vec e = adjoint[n] * states[t][n];
      exponent += e * rate[n];
      grad_A[n] += e * delta;
    }
    sums.exponent[t] = exponent;
    sums.drive[t] = grad_drive;
  }
  UNROLL for (int n = 0; n < K; n++) to.adjoint[n] = adjoint[n], to.A[n] += grad_A[n];
}

INLINE void read_chunk(const ScanArgs& s, long token, long t0, Block block, Inputs& in,
                       Sums& sums) {
  const long D = s.n_channels;
  const Vec bias = bias_of(s, block), skip = load(s.D + block.first, block.lanes);
  for (int t = 0; t < in.steps; t++) {
    const long at = (token + t) * D + block.first;
    if (t0 + t >= CHUNK) {
      __builtin_prefetch(s.x + at - CHUNK * D);
      __builtin_prefetch(s.dt + at - CHUNK * D);
      __builtin_prefetch(s.grad_y + at - CHUNK * D);
      if (s.z) __builtin_prefetch(z_at(s, token + t - CHUNK, block));
    }
    const Vec x = load(s.x + at, block.lanes);
    const Softplus step = softplus(load(s.dt + at, block.lanes) + bias);
    in.delta[t] = step.value;
    in.drive[t] = step.value * x;
    in.y[t] = skip * x;
    sums.slope[t] = step.slope;
    sums.grad_y[t] = load(s.grad_y + at, block.lanes);
    if (s.z) sums.grad_y[t] *= gate(load(z_at(s, token + t, block), block.lanes)).value;
    sums.exponent[t] = sums.drive[t] = Vec{};
  }
}

INLINE void write_chunk(const ScanArgs& s, long token, Block block, const Inputs& in,
                        const Sums& sums, Carried to) {
  const Vec skip = load(s.D + block.first, block.lanes);
  Vec grad_D{}, grad_bias{};
  for (int t = 0; t < in.steps; t++) {
    const long at = (token + t) * s.n_channels + block.first;
    const Vec x = load(s.x + at, block.lanes), grad_y = sums.grad_y[t];
    const Vec grad_dt = (sums.exponent[t] * LN_2 + sums.drive[t] * x) * sums.slope[t];
    grad_D += grad_y * x;
    grad_bias += grad_dt;
    store(s.grad_dt + at, grad_dt, block.lanes);
    store(s.grad_x + at, grad_y * skip + sums.drive[t] * in.delta[t], block.lanes);
    if (s.z) {
      const Vec slope = gate(load(z_at(s, token + t, block), block.lanes)).slope;
      store(s.grad_z + at, load(s.grad_y + at, block.lanes) * in.y[t] * slope, block.lanes);
    }
  }
  *to.D += grad_D;
  *to.bias += grad_bias;
}

static void backward_chunk(const ScanArgs& s, long row, long t0, Block block, const Vec* rates,
                           const float* start, Carried to) {
  const long N = s.n_states, token = row * s.n_time + t0;
  Inputs in;
  Sums sums;
  in.steps = steps_from(s, t0);
  read_chunk(s, token, t0, block, in, sums);
  over_states(N, [&](long n, auto K) __attribute__((always_inline)) {
    const Carried from_n{to.adjoint + n, to.A + n, to.B + n, to.C + n, to.D, to.bias};
    backward_states<K.value>(N, s.B + token * N + n, s.C + token * N + n, rates + n,
                             start + n * LANES, in, sums, from_n);
  });
  write_chunk(s, token, block, in, sums, to);
}

static void backward_task(const ScanArgs& s, long row, long group) {
  const Sizes sizes(s);
  const long N = s.n_states, begin = group * GROUP, n_own = sizes.blocks_in(group);
  const Vecs rates = zeros(n_own * N), adjoint = zeros(n_own * N), grad_A = zeros(n_own * N);
  const Vecs sum_B = zeros(CHUNK * N), sum_C = zeros(CHUNK * N);
  Vec grad_D[GROUP]{}, grad_bias[GROUP]{};
  for (long k = 0; k < n_own; k++) {
    const Block block = block_at(s, begin + k);
    const float* arriving = s.grad_h_last + (row * s.n_channels + block.first) * N;
    load_rates(s, block, &rates[k * N]);
    for (long n = 0; n < N; n++) adjoint[k * N + n] = gather(arriving + n, N, block.lanes);
  }
  for (long chunk = sizes.n_chunks - 1; chunk >= 0; chunk--) {
    const long t0 = chunk * CHUNK;
    for (long k = 0; k < n_own; k++)
      backward_chunk(s, row, t0, block_at(s, begin + k), &rates[k * N],
                     s.starts + sizes.start_of(s, row, chunk, begin + k),
                     {&adjoint[k * N], &grad_A[k * N], &sum_B[0], &sum_C[0], &grad_D[k],
                      &grad_bias[k]});
    const long at = ((group * s.n_batch + row) * s.n_time + t0) * N;
    for (long i = 0; i < steps_from(s, t0) * N; i++) {
      s.part_B[at + i] = sum_lanes(sum_B[i]);
      s.part_C[at + i] = sum_lanes(sum_C[i]);
      sum_B[i] = sum_C[i] = Vec{};
    }
  }
  for (long k = 0; k < n_own; k++) {
    const Block block = block_at(s, begin + k);
    const long channel = row * s.n_channels + block.first;
    for (long n = 0; n < N; n++) {
      scatter(s.part_A + channel * N + n, N, grad_A[k * N + n], block.lanes);
      if (s.grad_h0) scatter(s.grad_h0 + channel * N + n, N, adjoint[k * N + n], block.lanes);
    }
    store(s.part_D + channel, grad_D[k], block.lanes);
    store(s.part_dt_bias + channel, grad_bias[k], block.lanes);
  }
}
