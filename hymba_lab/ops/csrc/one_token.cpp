// What decoding does to a single token of each row, float or bfloat16, behind a plain C ABI.
//
// These calls are small and many: what counts is what they do not do. They make no graph, start no
// threads of their own and change states in place.
#include "attend.h"
#include "elements.h"
#include "tasks.h"
#include "team.h"

// y = x / sqrt(mean(x^2) + eps) * weight
template <class T>
static void norm_row(long width, const T* x, const T* weight, float eps, T* y) {
  Vec squares{};
  for (long i = 0; i < width; i += LANES) {
    const Vec part = load(x + i, lanes_from(i, width));
    squares += part * part;
  }
  const float scale = 1.f / __builtin_sqrtf(sum_lanes(squares) / width + eps);
  for (long i = 0; i < width; i += LANES) {
    const int lanes = lanes_from(i, width);
    store(y + i, load(x + i, lanes) * scale * load(weight + i, lanes), lanes);
  }
}

// y = SiLU(bias + sum_k weight_k input_k) over the kept inputs (K-1,D) and x (D), which becomes the
// newest of them; channels from `first` to `end`.
template <class T>
static void conv_row(long first, long end, long D, long K, const T* x, const T* weight,
                     const T* bias, T* inputs, T* y) {
  for (long d = first; d < end; d += LANES) {
    const int lanes = lanes_from(d, end);
    Vec sum = load(bias + d, lanes);
    for (long k = 0; k < K; k++) {
      Vec taps{};
      for (int i = 0; i < lanes; i++) taps[i] = number(weight[(d + i) * K + k]);
      sum += taps * load(k + 1 < K ? inputs + k * D + d : x + d, lanes);
    }
    store(y + d, gate(sum).value, lanes);
  }
  for (long k = 0; k + 1 < K; k++)
    memcpy(inputs + k * D + first, k + 2 < K ? inputs + (k + 1) * D + first : x + first,
           (end - first) * sizeof(T));
}

// Mirrored in one_token.py. x, dt, z, y (B,D)  A (D,N)  B, C (B,N)  skip, dt_bias (D)  h (B,D,N).
struct StepArgs {
  int64_t n_rows, n_channels, n_states;
  const void *x, *dt, *B, *C, *skip, *z /* or null */, *dt_bias /* or null */;
  const float *A, *before;
  float* after;  // may be `before`
  void* y;
};

// What the blocks of one row share. The states (LANES,N) of a block are N vectors in the order of
// the memory, so that a cache keeps the layout (D,N): lane i of vector j is state (LANES j + i) % N.
struct Lanes {
  long N;
  std::vector<float> B, C;                   // (LANES,N)
  std::vector<float> powers, drives, parts;  // (LANES,N), of the block under way

  template <class T>
  Lanes(long N, const T* B_row, const T* C_row)
      : N(N), B(N * LANES), C(B), powers(B), drives(B), parts(B) {
    for (long i = 0; i < N * LANES; i++) B[i] = number(B_row[i % N]), C[i] = number(C_row[i % N]);
  }

  // after = 2^(power A) before + drive B; returns C after, lane by lane.
  Vec step(long at, Vec power, Vec drive, const float* A, const float* before,
                  float* after) const {
    const Vec h = exp2(power * load(A + at)) * load(before + at) + drive * load(&B[at]);
    store(after + at, h);
    return h * load(&C[at]);
  }
};

// Steps one whole block and returns C after of every channel.
static Vec step_states(Lanes& s, Vec power, Vec drive, const float* A, const float* before,
                       float* after) {
  if (s.N % LANES == 0) {  // a vector belongs to one channel
    Vec sums[LANES] = {};
    for (int i = 0; i < LANES; i++) {
      const Vec p = broadcast(power[i]), d = broadcast(drive[i]);
      for (long n = 0; n < s.N; n += LANES) sums[i] += s.step(i * s.N + n, p, d, A, before, after);
    }
    return sums_of(sums);
  }
  for (int i = 0; i < LANES; i++)
    for (long n = 0; n < s.N; n++)
      s.powers[i * s.N + n] = power[i], s.drives[i * s.N + n] = drive[i];
  for (long at = 0; at < s.N * LANES; at += LANES)
    store(&s.parts[at], s.step(at, load(&s.powers[at]), load(&s.drives[at]), A, before, after));
  Vec y{};
  for (int i = 0; i < LANES; i++)
    for (long n = 0; n < s.N; n++) y[i] += s.parts[i * s.N + n];
  return y;
}

// The same for the last channels of a row, which do not fill a block.
static Vec step_rest(Lanes& lanes, Vec power, Vec drive, const float* A, const float* before,
                     float* after, int n_channels) {
  const size_t size = lanes.N * LANES, bytes = n_channels * lanes.N * sizeof(float);
  std::vector<float> rates(size), state(size);
  memcpy(rates.data(), A, bytes);
  memcpy(state.data(), before, bytes);
  const Vec y = step_states(lanes, power, drive, rates.data(), state.data(), state.data());
  memcpy(after, state.data(), bytes);
  return y;
}

// One row, channels from `begin` to `end`.
template <class T>
static void step_row(const StepArgs& s, long row, long begin, long end) {
  const long N = s.n_states, D = s.n_channels;
  Lanes states(N, (const T*)s.B + row * N, (const T*)s.C + row * N);
  for (long d = begin; d < end; d += LANES) {
    const int lanes = lanes_from(d, end);
    const long at = row * D + d;
    const Vec x = load((const T*)s.x + at, lanes);
    Vec dt = load((const T*)s.dt + at, lanes);
    if (s.dt_bias) dt += load((const T*)s.dt_bias + d, lanes);
    const Vec delta = softplus(dt).value, power = delta * LOG2_E, drive = delta * x;
    const float *A = s.A + d * N, *before = s.before + at * N;
    float* after = s.after + at * N;
    Vec y = lanes == LANES ? step_states(states, power, drive, A, before, after)
                           : step_rest(states, power, drive, A, before, after, lanes);
    y += load((const T*)s.skip + d, lanes) * x;
    if (s.z) y *= gate(load((const T*)s.z + at, lanes)).value;
    store((T*)s.y + at, y, lanes);
  }
}

// Calls f with a null pointer of the element type.
template <class F>
INLINE void of_type(int64_t is_bfloat16, F f) {
  is_bfloat16 ? f((Bfloat16*)nullptr) : f((float*)nullptr);
}

constexpr long PER_THREAD = 512;  // channels below which another thread costs more than it brings

extern "C" {

// Lends the threads of an OpenMP runtime through its GOMP_parallel.
void hymba_use_threads(void (*parallel)(void (*)(void*), void*, unsigned, unsigned)) {
  team.parallel = parallel;
}

// x (rows of `stride` elements), weight (width), y (n_rows, width)
void hymba_norm(int64_t is_bfloat16, int64_t n_rows, int64_t width, int64_t stride, const void* x,
                const void* weight, double eps, void* y) {
  of_type(is_bfloat16, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (long row = 0; row < n_rows; row++)
      norm_row((long)width, (const T*)x + row * stride, (const T*)weight, (float)eps,
               (T*)y + row * width);
  });
}

// x, y (B,D)  weight (D,K)  bias (D)  inputs (B,K-1,D)
void hymba_conv_step(int64_t is_bfloat16, int64_t n_threads, int64_t n_rows, int64_t D, int64_t K,
                     const void* x, const void* weight, const void* bias, void* inputs, void* y) {
  of_type(is_bfloat16, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    share_out(n_threads, D, PER_THREAD, [&](long first, long end) {
      for (long row = 0; row < n_rows; row++)
        conv_row(first, end, (long)D, (long)K, (const T*)x + row * D, (const T*)weight,
                 (const T*)bias, (T*)inputs + row * (K - 1) * D, (T*)y + row * D);
    });
  });
}

// y = x cos + roll(x) sin for heads x (B,H,P), roll by P/2; cos and sin (B,P), or (P) for all rows
// where `stride` is 0.
void hymba_rotate(int64_t is_bfloat16, int64_t n_rows, int64_t n_heads, int64_t P, int64_t stride,
                  const void* x, const float* cos, const float* sin, void* y) {
  of_type(is_bfloat16, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    for (long head = 0; head < n_rows * n_heads; head++) {
      const float *c = cos + head / n_heads * stride, *s = sin + head / n_heads * stride;
      const T* from = (const T*)x + head * P;
      T* to = (T*)y + head * P;
      for (long p = 0; p < P; p++)
        put(to + p, number(from[p]) * c[p] + number(from[(p + P / 2) % P]) * s[p]);
    }
  });
}

// A = -exp(A_log)
void hymba_decay(int64_t is_bfloat16, int64_t n_threads, int64_t count, const void* A_log,
                 float* A) {
  of_type(is_bfloat16, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    share_out(n_threads, count, 16 * PER_THREAD, [&](long first, long end) {
      for (long i = first; i < end; i += LANES) {
        const int lanes = lanes_from(i, end);
        store(A + i, -exp2(load((const T*)A_log + i, lanes) * LOG2_E), lanes);
      }
    });
  });
}

void hymba_scan_step(int64_t is_bfloat16, int64_t n_threads, const StepArgs* s) {
  of_type(is_bfloat16, [&](auto* type) {
    share_out(n_threads, s->n_channels, PER_THREAD, [&](long first, long end) {
      for (long row = 0; row < s->n_rows; row++)
        step_row<std::remove_pointer_t<decltype(type)>>(*s, row, first, end);
    });
  });
}

void hymba_attend(int64_t is_bfloat16, int64_t n_threads, const AttendArgs* s) {
  of_type(is_bfloat16, [&](auto* type) {
    share_out(n_threads, s->n_rows * s->n_kv_heads, 1, [&](long first, long end) {
      for (long i = first; i < end; i++)
        attend_task<std::remove_pointer_t<decltype(type)>>(*s, i / s->n_kv_heads,
                                                           i % s->n_kv_heads);
    });
  });
}
}
