// The recurrence over one group of channels, chunk by chunk.
#pragma once

#include "tasks.h"

// h = exp(delta A) h + drive B and y += C h for K states of one block, over one chunk.
template <int K, bool DEEP>
static void forward_states(long N, const float* B, const float* C, const Vec* rates, Vec* state,
                           Inputs& in) {
  Vec h[K], rate[K];
  UNROLL for (int n = 0; n < K; n++) h[n] = state[n], rate[n] = rates[n];
  for (int t = 0; t < in.steps; t++, B += N, C += N) {
    const Vec delta = in.delta[t], drive = in.drive[t];
    Vec even = in.y[t], odd{};  // two sums: one would be a chain of K dependent additions
    UNROLL for (int n = 0; n < K; n++) {
      h[n] = exp2<DEEP>(delta * rate[n]) * h[n] + drive * B[n];
      (n % 2 ? odd : even) += h[n] * C[n];
    }
    in.y[t] = even + odd;
  }
  UNROLL for (int n = 0; n < K; n++) state[n] = h[n];
}

static void forward_chunk(const ScanArgs& s, long row, long t0, Block block, const Vec* rates,
                          Vec lowest_rate, Vec* state) {
  const long D = s.n_channels, N = s.n_states;
  const Vec bias = bias_of(s, block), skip = load(s.D + block.first, block.lanes);
  Vec longest{};
  Inputs in;
  in.steps = steps_from(s, t0);
  const long token = row * s.n_time + t0, start = token * D + block.first;
  for (int t = 0; t < in.steps; t++) {
    const long at = start + t * D;
    if (t0 + t + CHUNK < s.n_time) {  // rows are far apart: the hardware does not foresee them
      __builtin_prefetch(s.x + at + CHUNK * D);
      __builtin_prefetch(s.dt + at + CHUNK * D);
      if (s.z) __builtin_prefetch(z_at(s, token + t + CHUNK, block));
    }
    const Vec x = load(s.x + at, block.lanes);
    in.delta[t] = softplus(load(s.dt + at, block.lanes) + bias).value;
    in.drive[t] = in.delta[t] * x;
    in.y[t] = skip * x;
    longest = at_least(in.delta[t], longest);
  }
  in.deep = is_deep(longest, lowest_rate);
  over_states(N, [&](long n, auto K) __attribute__((always_inline)) {
    const auto states = in.deep ? forward_states<K.value, true> : forward_states<K.value, false>;
    states(N, s.B + token * N + n, s.C + token * N + n, rates + n, state + n, in);
  });
  for (int t = 0; t < in.steps; t++) {
    Vec y = in.y[t];
    if (s.z) y *= gate(load(z_at(s, token + t, block), block.lanes)).value;
    store(s.y + start + t * D, y, block.lanes);
  }
}

static void forward_task(const ScanArgs& s, long row, long group) {
  const Sizes sizes(s);
  const long N = s.n_states, begin = group * GROUP, n_own = sizes.blocks_in(group);
  const auto rates = zeros(n_own * N), states = zeros(n_own * N);
  Vec lowest[GROUP];
  for (long k = 0; k < n_own; k++) {
    const Block block = block_at(s, begin + k);
    lowest[k] = load_rates(s, block, &rates[k * N]);
    if (s.h0)
      for (long n = 0; n < N; n++)
        states[k * N + n] =
            gather(s.h0 + (row * s.n_channels + block.first) * N + n, N, block.lanes);
  }
  for (long chunk = 0; chunk < sizes.n_chunks; chunk++)
    for (long k = 0; k < n_own; k++) {
      Vec* state = &states[k * N];
      if (s.starts) {
        float* kept = s.starts + sizes.start_of(s, row, chunk, begin + k);
        for (long n = 0; n < N; n++) store(kept + n * LANES, state[n]);
      }
      forward_chunk(s, row, chunk * CHUNK, block_at(s, begin + k), &rates[k * N], lowest[k],
                    state);
    }
  for (long k = 0; k < n_own; k++) {
    const Block block = block_at(s, begin + k);
    for (long n = 0; n < N; n++)
      scatter(s.h_last + (row * s.n_channels + block.first) * N + n, N, states[k * N + n],
              block.lanes);
  }
}
