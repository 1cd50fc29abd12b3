// What forward and backward share: the arguments, the cut into tasks, blocks and chunks, threads.
#pragma once

#include <atomic>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

#include "team.h"
#include "vector_math.h"

constexpr int CHUNK = 16;            // steps between stored states
constexpr int PADDED = 16;           // stored states are padded to a multiple of this many channels
constexpr int GROUP_CHANNELS = 128;  // channels of one task
constexpr int GROUP = GROUP_CHANNELS / LANES;
constexpr int IN_REGISTERS = 4;      // states of a channel that one pass over a chunk carries

// Mirrored field by field in kernels.py. Pointers that may be null are marked "or null".
struct ScanArgs {
  int64_t n_batch, n_time, n_channels, n_states, n_threads;
  int64_t z_stride;  // floats from one token of z to the next: z is often a slice of wider rows
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

struct Block {  // LANES neighbouring channels, fewer at the end of the row
  long first;   // channel
  int lanes;
};

struct Sizes {
  long n_blocks, n_groups, n_chunks, chunk_states;
  explicit Sizes(const ScanArgs& s)
      : n_blocks((s.n_channels + LANES - 1) / LANES),
        n_groups((n_blocks + GROUP - 1) / GROUP),
        n_chunks((s.n_time + CHUNK - 1) / CHUNK),
        chunk_states((s.n_channels + PADDED - 1) / PADDED * PADDED * s.n_states) {}

  long blocks_in(long group) const {
    const long left = n_blocks - group * GROUP;
    return left < GROUP ? left : GROUP;
  }

  // where the states (N, LANES) of one block before one chunk lie in `starts`
  long start_of(const ScanArgs& s, long row, long chunk, long block) const {
    return (row * n_chunks + chunk) * chunk_states + block * s.n_states * LANES;
  }
};

INLINE int steps_from(const ScanArgs& s, long t0) {
  return (int)(s.n_time - t0 < CHUNK ? s.n_time - t0 : CHUNK);
}

INLINE Block block_at(const ScanArgs& s, long index) {
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

// Runs task(0..n_tasks-1) on torch's threads, or on helpers that live for this call only where its
// OpenMP runtime is not known.
template <class Task>
static void in_parallel(long n_tasks, long n_threads, Task task) {
  std::atomic<long> next{0};
  auto work = [&] {
    for (long i; (i = next.fetch_add(1)) < n_tasks;) task(i);
  };
  if (n_threads > n_tasks) n_threads = n_tasks;
  if (n_threads > 1 && team.parallel)
    return team.parallel([](void* work_) { (*(decltype(work)*)work_)(); }, &work,
                         (unsigned)n_threads, 0);
  std::vector<std::thread> helpers;
  try {
    for (long i = 1; i < n_threads; i++) helpers.emplace_back(work);
  } catch (const std::system_error&) {
    // no more threads to be had: those that started share the work
  }
  work();
  for (auto& helper : helpers) helper.join();
}

struct FreeAligned {
  void operator()(void* p) const { ::operator delete(p, std::align_val_t(alignof(Vec))); }
};
template <class T>
using Array = std::unique_ptr<T[], FreeAligned>;

template <class T = Vec>
static Array<T> zeros(long count) {
  void* memory = ::operator new(count * sizeof(T), std::align_val_t(alignof(Vec)));
  memset(memory, 0, count * sizeof(T));
  return Array<T>(static_cast<T*>(memory));
}

// What all states of one block share in one chunk.
struct Inputs {
  int steps;
  bool deep;                       // some exp(delta A) may fall below the smallest normal number
  Vec delta[CHUNK], drive[CHUNK];  // drive = delta x
  Vec y[CHUNK];                    // starts as the skip D x, grows by C h of every state
};

// z SiLU-gated: z / (1 + e^-z) and its derivative.
struct Gate {
  Vec value, slope;
};

INLINE Gate gate(Vec z) {
  const Vec open = sigmoid(z);
  return {z * open, open * (1.f + z * (1.f - open))};
}

// log2(e) A of one block: exp(delta A) is then one power of two. Returns the lowest of each lane.
INLINE Vec load_rates(const ScanArgs& s, Block block, Vec* rates) {
  Vec lowest{};
  for (long n = 0; n < s.n_states; n++) {
    rates[n] = gather(s.A + block.first * s.n_states + n, s.n_states, block.lanes) * LOG2_E;
    lowest = rates[n] < lowest ? rates[n] : lowest;
  }
  return lowest;
}

// Whether exp2 may meet an exponent that only its DEEP form takes, for steps up to `longest`.
INLINE bool is_deep(Vec longest, Vec lowest_rate) { return any_below(longest * lowest_rate, -126.f); }

// z of one block at a token counted over all rows; asked for only where z is given.
INLINE const float* z_at(const ScanArgs& s, long token, Block block) {
  return s.z + token * s.z_stride + block.first;
}

INLINE Vec bias_of(const ScanArgs& s, Block block) {
  return s.dt_bias ? load(s.dt_bias + block.first, block.lanes) : Vec{};
}
