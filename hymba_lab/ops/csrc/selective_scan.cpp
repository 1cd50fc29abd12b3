// Selective scan of Mamba on a CPU: forward, backward and one step, float32, behind a plain C ABI.
//
//   delta_t = softplus(dt_t + dt_bias)
//   h_t     = exp(delta_t A) h_{t-1} + delta_t x_t B_t
//   y_t     = (C_t h_t + D x_t) * SiLU(z_t)
//
// Lanes run over channels. A task is one batch row and one group of channels, and adds in an order
// of its own, so the result does not depend on the number of threads. The forward keeps the state
// before every chunk of steps; the backward recomputes the states inside a chunk, in cache.
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

#include "vector_math.h"

namespace {

constexpr int CHUNK = 16;           // steps between stored states
constexpr int PADDED = 16;          // stored states are padded to a multiple of this many channels
constexpr int GROUP_CHANNELS = 128; // channels of one task
constexpr int GROUP = GROUP_CHANNELS / LANES;
#ifndef IN_REGISTERS
#define IN_REGISTERS 4  // states of a channel that one pass over a chunk carries
#endif

}  // namespace

// Mirrored field by field in scan_cpp.py. Pointers that may be null are marked "or null".
struct ScanArgs {
  int64_t n_batch, n_time, n_channels, n_states, n_threads;
  // inputs: x, dt, z (B,T,D)  A (D,N)  B, C (B,T,N)  D, dt_bias (D)  h0 (B,D,N)
  const float *x, *dt, *A, *B, *C, *D, *z /* or null */, *dt_bias /* or null */, *h0 /* or null */;
  // outputs; starts (B, chunks, padded D, N) or null: the state before every chunk, in an order of
  // the kernel's own
  float *y, *h_last, *starts;
  // incoming gradients, then gradients of the inputs (null where the input is null)
  const float *grad_y, *grad_h_last;
  float *grad_x, *grad_dt, *grad_A, *grad_B, *grad_C, *grad_D, *grad_z, *grad_dt_bias, *grad_h0;
  // sums of one task each: B, C (groups,B,T,N)  A (B,D,N)  D, dt_bias (B,D)
  float *part_B, *part_C, *part_A, *part_D, *part_dt_bias;
};

namespace {

struct Block {       // LANES neighbouring channels, fewer at the end of the row
  long first;        // channel
  int lanes;
};

struct Sizes {
  long n_blocks, n_groups, n_chunks, chunk_states;
  explicit Sizes(const ScanArgs& s)
      : n_blocks((s.n_channels + LANES - 1) / LANES),
        n_groups((n_blocks + GROUP - 1) / GROUP),
        n_chunks((s.n_time + CHUNK - 1) / CHUNK),
        chunk_states((s.n_channels + PADDED - 1) / PADDED * PADDED * s.n_states) {}

  // where the states (N, LANES) of one block before one chunk lie in `starts`
  long start_of(const ScanArgs& s, long row, long chunk, long block) const {
    return (row * n_chunks + chunk) * chunk_states + block * s.n_states * LANES;
  }
};

Block block_at(const ScanArgs& s, long index) {
  const long first = index * LANES, left = s.n_channels - first;
  return {first, left < LANES ? (int)left : LANES};
}

// Runs body(n, K) over the states in groups of K that stay in registers.
template <class Body>
INLINE void over_states(long n_states, Body body) {
  long n = 0;
  for (; n + IN_REGISTERS <= n_states; n += IN_REGISTERS)
    body(n, std::integral_constant<int, IN_REGISTERS>());
  for (; n < n_states; n++) body(n, std::integral_constant<int, 1>());
}

// Runs task(0..n_tasks-1) on the calling thread and helpers that live for this call only: a second
// OpenMP runtime beside torch's would spin against it.
template <class Task>
void in_parallel(long n_tasks, long n_threads, Task task) {
  std::atomic<long> next{0};
  auto work = [&] {
    for (long i; (i = next.fetch_add(1)) < n_tasks;) task(i);
  };
  std::vector<std::thread> helpers;
  try {
    for (long i = 1; i < n_threads && i < n_tasks; i++) helpers.emplace_back(work);
  } catch (const std::system_error&) {
    // no more threads to be had: those that started share the work
  }
  work();
  for (auto& helper : helpers) helper.join();
}

struct FreeVecs {
  void operator()(Vec* p) const { ::operator delete(p, std::align_val_t(alignof(Vec))); }
};
using Vecs = std::unique_ptr<Vec[], FreeVecs>;

Vecs zeros(long count) {
  void* memory = ::operator new(count * sizeof(Vec), std::align_val_t(alignof(Vec)));
  memset(memory, 0, count * sizeof(Vec));
  return Vecs(static_cast<Vec*>(memory));
}

// What all states of one block share in one chunk.
struct Inputs {
  Vec delta[CHUNK], drive[CHUNK], y[CHUNK];  // drive = delta x; y starts as the skip D x
  int steps;
};

// log2(e) A of one block: exp(delta A) is then one power of two.
INLINE void load_rates(const ScanArgs& s, Block block, Vec* rates) {
  for (long n = 0; n < s.n_states; n++)
    rates[n] = gather(s.A + block.first * s.n_states + n, s.n_states, block.lanes) * LOG2_E;
}

INLINE Vec bias_of(const ScanArgs& s, Block block) {
  return s.dt_bias ? load(s.dt_bias + block.first, block.lanes) : Vec{};
}

// ---------------------------------------------------------------- forward

template <int K>
INLINE void forward_states(long N, const float* B, const float* C, const Vec* rates, Vec* state,
                           Inputs& in) {
  Vec h[K], rate[K];
  UNROLL for (int n = 0; n < K; n++) h[n] = state[n], rate[n] = rates[n];
  for (int t = 0; t < in.steps; t++, B += N, C += N) {
    const Vec delta = in.delta[t], drive = in.drive[t];
    Vec even = in.y[t], odd{};  // two sums: one would be a chain of K dependent additions
    UNROLL for (int n = 0; n < K; n++) {
      h[n] = exp2(delta * rate[n]) * h[n] + drive * B[n];
      (n % 2 ? odd : even) += h[n] * C[n];
    }
    in.y[t] = even + odd;
  }
  UNROLL for (int n = 0; n < K; n++) state[n] = h[n];
}

void forward_chunk(const ScanArgs& s, long row, long t0, Block block, const Vec* rates, Vec* state) {
  const long D = s.n_channels, N = s.n_states;
  const Vec bias = bias_of(s, block), skip = load(s.D + block.first, block.lanes);
  Inputs in;
  in.steps = (int)(s.n_time - t0 < CHUNK ? s.n_time - t0 : CHUNK);
  const long start = (row * s.n_time + t0) * D + block.first;
  for (int t = 0; t < in.steps; t++) {
    const long at = start + t * D;
    if (t0 + t + CHUNK < s.n_time) {  // rows are far apart: the hardware does not foresee them
      __builtin_prefetch(s.x + at + CHUNK * D);
      __builtin_prefetch(s.dt + at + CHUNK * D);
      if (s.z) __builtin_prefetch(s.z + at + CHUNK * D);
    }
    const Vec x = load(s.x + at, block.lanes);
    in.delta[t] = softplus(load(s.dt + at, block.lanes) + bias).value;
    in.drive[t] = in.delta[t] * x;
    in.y[t] = skip * x;
  }
  const long token = (row * s.n_time + t0) * N;
  over_states(N, [&](long n, auto K) __attribute__((always_inline)) {
    forward_states<K.value>(N, s.B + token + n, s.C + token + n, rates + n, state + n, in);
  });
  for (int t = 0; t < in.steps; t++) {
    Vec y = in.y[t];
    if (s.z) {
      const Vec z = load(s.z + start + t * D, block.lanes);
      y *= z * sigmoid(z);
    }
    store(s.y + start + t * D, y, block.lanes);
  }
}

void forward_task(const ScanArgs& s, long row, long group) {
  const Sizes sizes(s);
  const long N = s.n_states, begin = group * GROUP;
  const long n_own = sizes.n_blocks - begin < GROUP ? sizes.n_blocks - begin : GROUP;
  const Vecs rates = zeros(n_own * N), states = zeros(n_own * N);
  for (long k = 0; k < n_own; k++) {
    const Block block = block_at(s, begin + k);
    load_rates(s, block, &rates[k * N]);
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
      forward_chunk(s, row, chunk * CHUNK, block_at(s, begin + k), &rates[k * N], state);
    }
  for (long k = 0; k < n_own; k++) {
    const Block block = block_at(s, begin + k);
    for (long n = 0; n < N; n++)
      scatter(s.h_last + (row * s.n_channels + block.first) * N + n, N, states[k * N + n],
              block.lanes);
  }
}

// ---------------------------------------------------------------- backward

// What the backward of one block and chunk adds up over the states.
struct Sums {
  Vec grad_y[CHUNK];      // gradient of C h + D x, the gate taken off
  Vec rate_delta[CHUNK];  // sum_n (gradient of delta A) A log2(e)
  Vec drive[CHUNK];       // gradient of delta x
};

// Per task: running over chunks (adjoint, A, D, bias) or over the blocks of a chunk (B, C).
struct Carried {
  Vec *adjoint, *A;  // K.. states of this block
  Vec *B, *C;        // (CHUNK, N): lanes not yet added up
};

template <int K>
INLINE void backward_states(long N, const float* B, const float* C, const Vec* rates,
                            const float* start, Inputs& in, Sums& sums, Carried carried) {
  Vec decay[CHUNK][K], states[CHUNK + 1][K], rate[K];
  UNROLL for (int n = 0; n < K; n++) {
    rate[n] = rates[n];
    states[0][n] = load(start + n * LANES);
  }
  {
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
  Vec adjoint[K], grad_rate[K];
  UNROLL for (int n = 0; n < K; n++) adjoint[n] = carried.adjoint[n], grad_rate[n] = Vec{};
  for (int t = in.steps - 1; t >= 0; t--) {
    const Vec delta = in.delta[t], drive = in.drive[t], grad_y = sums.grad_y[t];
    Vec rate_delta = sums.rate_delta[t], grad_drive = sums.drive[t];
    UNROLL for (int n = 0; n < K; n++) {
      const Vec grad_h = adjoint[n] + grad_y * C[t * N + n];
      carried.C[t * N + n] += grad_y * states[t + 1][n];
      carried.B[t * N + n] += grad_h * drive;
      grad_drive += grad_h * B[t * N + n];
      adjoint[n] = grad_h * decay[t][n];
      const Vec grad_exponent = adjoint[n] * states[t][n];
      rate_delta += grad_exponent * rate[n];
      grad_rate[n] += grad_exponent * delta;
    }
    sums.rate_delta[t] = rate_delta;
    sums.drive[t] = grad_drive;
  }
  UNROLL for (int n = 0; n < K; n++) carried.adjoint[n] = adjoint[n], carried.A[n] += grad_rate[n];
}

// Gradients of one block over one chunk; grad_D and grad_bias grow by the chunk's share.
void backward_chunk(const ScanArgs& s, long row, long t0, Block block, const Vec* rates,
                    const float* start, Carried carried, Vec& grad_D, Vec& grad_bias) {
  const long D = s.n_channels, N = s.n_states;
  const Vec bias = bias_of(s, block), skip = load(s.D + block.first, block.lanes);
  Inputs in;
  Sums sums;
  Vec slope[CHUNK];
  in.steps = (int)(s.n_time - t0 < CHUNK ? s.n_time - t0 : CHUNK);
  const long origin = (row * s.n_time + t0) * D + block.first;
  for (int t = 0; t < in.steps; t++) {
    const long at = origin + t * D;
    if (t0 + t >= CHUNK) {
      __builtin_prefetch(s.x + at - CHUNK * D);
      __builtin_prefetch(s.dt + at - CHUNK * D);
      __builtin_prefetch(s.grad_y + at - CHUNK * D);
      if (s.z) __builtin_prefetch(s.z + at - CHUNK * D);
    }
    const Vec x = load(s.x + at, block.lanes);
    const Softplus step = softplus(load(s.dt + at, block.lanes) + bias);
    in.delta[t] = step.value;
    slope[t] = step.slope;
    in.drive[t] = step.value * x;
    in.y[t] = skip * x;
    sums.grad_y[t] = load(s.grad_y + at, block.lanes);
    if (s.z) {
      const Vec z = load(s.z + at, block.lanes);
      sums.grad_y[t] *= z * sigmoid(z);
    }
    sums.rate_delta[t] = sums.drive[t] = Vec{};
  }
  const long token = (row * s.n_time + t0) * N;
  over_states(N, [&](long n, auto K) __attribute__((always_inline)) {
    backward_states<K.value>(
        N, s.B + token + n, s.C + token + n, rates + n, start + n * LANES, in, sums,
        {carried.adjoint + n, carried.A + n, carried.B + n, carried.C + n});
  });
  Vec share_D{}, share_bias{};
  for (int t = 0; t < in.steps; t++) {
    const long at = origin + t * D;
    const Vec x = load(s.x + at, block.lanes);
    const Vec grad_dt = (sums.rate_delta[t] * LN_2 + sums.drive[t] * x) * slope[t];
    share_D += sums.grad_y[t] * x;
    share_bias += grad_dt;
    store(s.grad_dt + at, grad_dt, block.lanes);
    store(s.grad_x + at, sums.grad_y[t] * skip + sums.drive[t] * in.delta[t], block.lanes);
    if (s.z) {
      const Vec z = load(s.z + at, block.lanes), gate = sigmoid(z);
      const Vec slope_z = gate * (1.f + z * (1.f - gate));
      store(s.grad_z + at, load(s.grad_y + at, block.lanes) * in.y[t] * slope_z, block.lanes);
    }
  }
  grad_D += share_D;
  grad_bias += share_bias;
}

void backward_task(const ScanArgs& s, long row, long group) {
  const Sizes sizes(s);
  const long N = s.n_states, D = s.n_channels, begin = group * GROUP;
  const long n_own = sizes.n_blocks - begin < GROUP ? sizes.n_blocks - begin : GROUP;
  const Vecs rates = zeros(n_own * N), adjoint = zeros(n_own * N), grad_A = zeros(n_own * N);
  const Vecs sum_B = zeros(CHUNK * N), sum_C = zeros(CHUNK * N);
  Vec grad_D[GROUP]{}, grad_bias[GROUP]{};
  for (long k = 0; k < n_own; k++) {
    const Block block = block_at(s, begin + k);
    load_rates(s, block, &rates[k * N]);
    for (long n = 0; n < N; n++)
      adjoint[k * N + n] =
          gather(s.grad_h_last + (row * D + block.first) * N + n, N, block.lanes);
  }
  for (long chunk = sizes.n_chunks - 1; chunk >= 0; chunk--) {
    const long t0 = chunk * CHUNK, steps = s.n_time - t0 < CHUNK ? s.n_time - t0 : CHUNK;
    memset(&sum_B[0], 0, CHUNK * N * sizeof(Vec));
    memset(&sum_C[0], 0, CHUNK * N * sizeof(Vec));
    for (long k = 0; k < n_own; k++) {
      const float* start = s.starts + sizes.start_of(s, row, chunk, begin + k);
      backward_chunk(s, row, t0, block_at(s, begin + k), &rates[k * N], start,
                     {&adjoint[k * N], &grad_A[k * N], &sum_B[0], &sum_C[0]}, grad_D[k],
                     grad_bias[k]);
    }
    const long at = ((group * s.n_batch + row) * s.n_time + t0) * N;
    for (long i = 0; i < steps * N; i++) {
      s.part_B[at + i] = sum_lanes(sum_B[i]);
      s.part_C[at + i] = sum_lanes(sum_C[i]);
    }
  }
  for (long k = 0; k < n_own; k++) {
    const Block block = block_at(s, begin + k);
    const long channel = row * D + block.first;
    for (long n = 0; n < N; n++) {
      scatter(s.part_A + channel * N + n, N, grad_A[k * N + n], block.lanes);
      if (s.grad_h0) scatter(s.grad_h0 + channel * N + n, N, adjoint[k * N + n], block.lanes);
    }
    store(s.part_D + channel, grad_D[k], block.lanes);
    store(s.part_dt_bias + channel, grad_bias[k], block.lanes);
  }
}

// total[i] = sum over parts p of parts[p, i], added in the order of p
void add_parts(const float* parts, long n_parts, long size, float* total) {
  memcpy(total, parts, size * sizeof(float));
  for (long p = 1; p < n_parts; p++)
    for (long i = 0; i < size; i++) total[i] += parts[p * size + i];
}

}  // namespace

// ---------------------------------------------------------------- what Python calls

extern "C" {

// Everything the Python side assumes about this file in one number.
int64_t hymba_scan_layout() {
  return (((int64_t)CHUNK * 1000 + PADDED) * 1000 + GROUP_CHANNELS) * 1000 + sizeof(ScanArgs);
}

void hymba_scan_forward(const ScanArgs* s) {
  const long groups = Sizes(*s).n_groups;
  in_parallel(s->n_batch * groups, s->n_threads,
              [=](long i) { forward_task(*s, i / groups, i % groups); });
}

void hymba_scan_backward(const ScanArgs* s) {
  const long groups = Sizes(*s).n_groups;
  in_parallel(s->n_batch * groups, s->n_threads,
              [=](long i) { backward_task(*s, i / groups, i % groups); });
  const long tokens = s->n_batch * s->n_time;
  add_parts(s->part_B, groups, tokens * s->n_states, s->grad_B);
  add_parts(s->part_C, groups, tokens * s->n_states, s->grad_C);
  add_parts(s->part_A, s->n_batch, s->n_channels * s->n_states, s->grad_A);
  add_parts(s->part_D, s->n_batch, s->n_channels, s->grad_D);
  if (s->grad_dt_bias) add_parts(s->part_dt_bias, s->n_batch, s->n_channels, s->grad_dt_bias);
}

// One token: x, dt, z, y (B,D), B, C (B,N), h0 and h_last (B,D,N). Here lanes run over states, so
// that a decoding cache keeps the layout of the interface.
void hymba_scan_step(const ScanArgs* s) {
  const long N = s->n_states, D = s->n_channels;
  for (long row = 0; row < s->n_batch; row++)
    for (long index = 0; index < Sizes(*s).n_blocks; index++) {
      const Block block = block_at(*s, index);
      const long at = row * D + block.first;
      const Vec x = load(s->x + at, block.lanes);
      const Vec delta = softplus(load(s->dt + at, block.lanes) + bias_of(*s, block)).value;
      const Vec drive = delta * x;
      Vec y = load(s->D + block.first, block.lanes) * x;
      for (int i = 0; i < block.lanes; i++) {
        Vec sum{};
        for (long n = 0; n < N; n += LANES) {
          const int lanes = N - n < LANES ? (int)(N - n) : LANES;
          const Vec rate = load(s->A + (block.first + i) * N + n, lanes) * LOG2_E;
          const Vec h = exp2(delta[i] * rate) * load(s->h0 + (at + i) * N + n, lanes) +
                        drive[i] * load(s->B + row * N + n, lanes);
          store(s->h_last + (at + i) * N + n, h, lanes);
          sum += h * load(s->C + row * N + n, lanes);
        }
        y[i] += sum_lanes(sum);
      }
      if (s->z) {
        const Vec z = load(s->z + at, block.lanes);
        y *= z * sigmoid(z);
      }
      store(s->y + at, y, block.lanes);
    }
}
}
