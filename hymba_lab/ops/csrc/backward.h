// Gradients of one group of channels: chunks from the last to the first, states recomputed inside.
//
//   g_t        = C_t grad_y_t + exp(delta_{t+1} A) g_{t+1}     gradient of h_t, the adjoint state
//   e_t        = exp(delta_t A) h_{t-1} g_t                    gradient of delta_t A
//   grad_A     = sum_t e_t delta_t        grad_B_t = sum_d g_t delta_t x_t
//   grad_delta = sum_n e_t A + g_t B_t x_t    grad_C_t = sum_d grad_y_t h_t
//   grad_x     = D grad_y + delta_t sum_n g_t B_t
#pragma once

#include "tasks.h"

// One block in one chunk: its inputs, and what it gathers over its states for every step.
struct Gathered : Inputs {
  Vec slope[CHUNK];       // d delta / d dt
  Vec gate_slope[CHUNK];  // d SiLU(z) / d z, where z is given
  Vec grad_y[CHUNK];      // gradient of C h + D x: the gate taken off
  Vec exponent[CHUNK];    // sum_n e_t A log2(e)
  Vec grad_drive[CHUNK];
};

// The sums over the channels of a group for K states, lane by lane.
template <int K>
struct Shared {
  Vec B[CHUNK][K], C[CHUNK][K];
};

// What one block carries from chunk to chunk.
struct Carried {
  Array<Vec> rates, adjoint, grad_A;  // (N)
  Vec lowest_rate, grad_D, grad_bias;
};

template <int K, bool DEEP>
static void backward_states(long N, const float* B, const float* C, const float* start,
                            const Vec* rates, Vec* adjoints, Vec* grads_A, Gathered& at,
                            Shared<K>& sums) {
  Vec decay[CHUNK][K], before[CHUNK][K], rate[K], h[K], adjoint[K], grad_A[K];
  UNROLL for (int n = 0; n < K; n++) {
    rate[n] = rates[n];
    h[n] = load(start + n * LANES);
    adjoint[n] = adjoints[n];
    grad_A[n] = Vec{};  // a chunk's own sum first: short sums round less than one long sum
  }
  for (int t = 0; t < at.steps; t++) {
    const Vec delta = at.delta[t], drive = at.drive[t], grad_y = at.grad_y[t];
    Vec y = at.y[t];
    UNROLL for (int n = 0; n < K; n++) {
      before[t][n] = h[n];
      decay[t][n] = exp2<DEEP>(delta * rate[n]);
      h[n] = decay[t][n] * h[n] + drive * B[t * N + n];
      sums.C[t][n] += grad_y * h[n];
      y += h[n] * C[t * N + n];
    }
    at.y[t] = y;
  }
  for (int t = at.steps - 1; t >= 0; t--) {
    const Vec delta = at.delta[t], drive = at.drive[t], grad_y = at.grad_y[t];
    Vec exponent = at.exponent[t], grad_drive = at.grad_drive[t];
    UNROLL for (int n = 0; n < K; n++) {
      const Vec g = adjoint[n] + grad_y * C[t * N + n];
      sums.B[t][n] += g * drive;
      grad_drive += g * B[t * N + n];
      adjoint[n] = g * decay[t][n];
      const Vec e = adjoint[n] * before[t][n];
      exponent += e * rate[n];
      grad_A[n] += e * delta;
    }
    at.exponent[t] = exponent;
    at.grad_drive[t] = grad_drive;
  }
  UNROLL for (int n = 0; n < K; n++) adjoints[n] = adjoint[n], grads_A[n] += grad_A[n];
}

static void read_chunk(const ScanArgs& s, long token, long t0, Block block, Vec lowest_rate,
                       Gathered& at) {
  const long D = s.n_channels;
  const Vec bias = bias_of(s, block), skip = load(s.D + block.first, block.lanes);
  Vec longest{};
  at.steps = steps_from(s, t0);
  for (int t = 0; t < at.steps; t++) {
    const long here = (token + t) * D + block.first;
    if (t0 + t >= CHUNK) {
      __builtin_prefetch(s.x + here - CHUNK * D);
      __builtin_prefetch(s.dt + here - CHUNK * D);
      __builtin_prefetch(s.grad_y + here - CHUNK * D);
      if (s.z) __builtin_prefetch(z_at(s, token + t - CHUNK, block));
    }
    const Vec x = load(s.x + here, block.lanes);
    const Softplus step = softplus(load(s.dt + here, block.lanes) + bias);
    at.delta[t] = step.value;
    at.drive[t] = step.value * x;
    at.y[t] = skip * x;
    at.slope[t] = step.slope;
    at.grad_y[t] = load(s.grad_y + here, block.lanes);
    if (s.z) {
      const Gate open = gate(load(z_at(s, token + t, block), block.lanes));
      at.gate_slope[t] = at.grad_y[t] * open.slope;
      at.grad_y[t] *= open.value;
    }
    at.exponent[t] = at.grad_drive[t] = Vec{};
    longest = at_least(step.value, longest);
  }
  at.deep = is_deep(longest, lowest_rate);
}

static void write_chunk(const ScanArgs& s, long token, Block block, const Gathered& at,
                        Carried& to) {
  const Vec skip = load(s.D + block.first, block.lanes);
  Vec grad_D{}, grad_bias{};
  for (int t = 0; t < at.steps; t++) {
    const long here = (token + t) * s.n_channels + block.first;
    const Vec x = load(s.x + here, block.lanes), grad_y = at.grad_y[t];
    const Vec grad_dt = (at.exponent[t] * LN_2 + at.grad_drive[t] * x) * at.slope[t];
    grad_D += grad_y * x;
    grad_bias += grad_dt;
    store(s.grad_dt + here, grad_dt, block.lanes);
    store(s.grad_x + here, grad_y * skip + at.grad_drive[t] * at.delta[t], block.lanes);
    if (s.z) store(s.grad_z + here, at.gate_slope[t] * at.y[t], block.lanes);
  }
  to.grad_D += grad_D;
  to.grad_bias += grad_bias;
}

// to[t N + n] = sum over the lanes of sums[t][n], for the steps of a chunk
template <int K>
static void write_sums(Vec (*sums)[K], int steps, long N, float* to) {
  static_assert(CHUNK * K % LANES == 0);
  float totals[CHUNK * K];
  for (int i = 0; i < CHUNK * K; i += LANES) store(totals + i, sums_of(sums[0] + i));
  for (int t = 0; t < steps; t++) memcpy(to + t * N, totals + t * K, K * sizeof(float));
}

static Carried arriving(const ScanArgs& s, long row, Block block) {
  const long N = s.n_states;
  Carried made{zeros(N), zeros(N), zeros(N), {}, {}, {}};
  made.lowest_rate = load_rates(s, block, &made.rates[0]);
  const float* grad_h = s.grad_h_last + (row * s.n_channels + block.first) * N;
  for (long n = 0; n < N; n++) made.adjoint[n] = gather(grad_h + n, N, block.lanes);
  return made;
}

static void leave(const ScanArgs& s, long row, Block block, const Carried& from) {
  const long N = s.n_states, channel = row * s.n_channels + block.first;
  for (long n = 0; n < N; n++) {
    scatter(s.part_A + channel * N + n, N, from.grad_A[n], block.lanes);
    if (s.grad_h0) scatter(s.grad_h0 + channel * N + n, N, from.adjoint[n], block.lanes);
  }
  store(s.part_D + channel, from.grad_D, block.lanes);
  store(s.part_dt_bias + channel, from.grad_bias, block.lanes);
}

static void backward_task(const ScanArgs& s, long row, long group) {
  const Sizes sizes(s);
  const long N = s.n_states, begin = group * GROUP, n_own = sizes.blocks_in(group);
  const auto gathered = zeros<Gathered>(n_own);
  std::vector<Carried> carried;
  for (long k = 0; k < n_own; k++) carried.push_back(arriving(s, row, block_at(s, begin + k)));
  for (long chunk = sizes.n_chunks - 1; chunk >= 0; chunk--) {
    const long t0 = chunk * CHUNK, token = row * s.n_time + t0;
    const long part = (group * s.n_batch * s.n_time + token) * N;
    for (long k = 0; k < n_own; k++)
      read_chunk(s, token, t0, block_at(s, begin + k), carried[k].lowest_rate, gathered[k]);
    // states outside, blocks inside: the sums over channels stay in the first cache
    over_states(N, [&](long n, auto K) __attribute__((always_inline)) {
      Shared<K.value> sums{};
      for (long k = 0; k < n_own; k++) {
        const auto states = gathered[k].deep ? backward_states<K.value, true>
                                             : backward_states<K.value, false>;
        Carried& own = carried[k];
        states(N, s.B + token * N + n, s.C + token * N + n,
               s.starts + sizes.start_of(s, row, chunk, begin + k) + n * LANES, &own.rates[n],
               &own.adjoint[n], &own.grad_A[n], gathered[k], sums);
      }
      write_sums<K.value>(sums.B, steps_from(s, t0), N, s.part_B + part + n);
      write_sums<K.value>(sums.C, steps_from(s, t0), N, s.part_C + part + n);
    });
    for (long k = 0; k < n_own; k++)
      write_chunk(s, token, block_at(s, begin + k), gathered[k], carried[k]);
  }
  for (long k = 0; k < n_own; k++) leave(s, row, block_at(s, begin + k), carried[k]);
}
