// Depthwise causal convolution with SiLU and its gradients, each in one pass over memory.
//
//   s_t = b + sum_k w_k x_{t-K+1+k},  y_t = SiLU(s_t)
//   ds_t = dy_t SiLU'(s_t),  dx_t = sum_k w_k ds_{t+K-1-k},  dw_k = sum_t ds_t x_{t-K+1+k}
#include "tasks.h"

constexpr long TASK_STEPS = 256;  // tokens of one task; fixed, so that threads change no bit
constexpr int MOST_TAPS = 8;

struct ConvArgs {  // mirrored field by field in conv.py
  int64_t n_batch, n_time, n_channels, n_taps, x_stride, n_threads;
  const float *x, *w, *b, *dy;  // x, dy (B,T,D)  w (K,D)  b (D)
  float *y, *dx, *part;         // part (tasks of a channel, K + 1, D): dw and db of each task
};

// What one task does: some tokens of one row, the channels of one group.
struct Span {
  const ConvArgs& a;
  long row, group, first, end, number;

  Span(const ConvArgs& args, long task, long n_groups, long n_spans)
      : a(args), row(task / (n_groups * n_spans)), group(task / n_spans % n_groups),
        first(task % n_spans * TASK_STEPS), number(row * n_spans + task % n_spans) {
    end = first + TASK_STEPS < a.n_time ? first + TASK_STEPS : a.n_time;
  }

  long place(long t) const { return (row * a.n_time + t) * a.n_channels; }

  Vec x(long t, long c, int lanes) const {
    return t < 0 || t >= a.n_time ? Vec{} : load(a.x + (row * a.n_time + t) * a.x_stride + c, lanes);
  }

  // Runs body(t0, t1, block, channel, lanes) over tiles that stay in the first cache.
  template <class Body>
  void tiles(long until, Body body) const {
    const long from = group * GROUP_CHANNELS, left = a.n_channels - from;
    const long to = from + (left < GROUP_CHANNELS ? left : GROUP_CHANNELS);
    for (long t = first; t < until; t += CHUNK)
      for (long c = from; c < to; c += LANES)
        body(t, t + CHUNK < until ? t + CHUNK : until, (c - from) / LANES, c,
             to - c < LANES ? (int)(to - c) : LANES);
  }
};

// The filter of one block of channels, and the inputs that it sees at one token.
template <int K>
struct Filter {
  Vec w[K], b, seen[K];  // seen[k] = x_{t-K+1+k}

  Filter(const Span& s, long t, long c, int lanes) : b(load(s.a.b + c, lanes)) {
    UNROLL for (int k = 0; k < K; k++) {
      w[k] = load(s.a.w + k * s.a.n_channels + c, lanes);
      seen[k] = k ? s.x(t - K + k, c, lanes) : Vec{};  // moved by one before it is used
    }
  }

  Vec sum(Vec x) {
    UNROLL for (int k = 0; k + 1 < K; k++) seen[k] = seen[k + 1];
    seen[K - 1] = x;
    Vec s = b;
    UNROLL for (int k = 0; k < K; k++) s += w[k] * seen[k];
    return s;
  }
};

template <int K>
static void forward(const Span& s) {
  s.tiles(s.end, [&](long t0, long t1, long, long c, int lanes) {
    Filter<K> filter(s, t0, c, lanes);
    for (long t = t0; t < t1; t++)
      store(s.a.y + s.place(t) + c, gate(filter.sum(s.x(t, c, lanes))).value, lanes);
  });
}

// Gradients of one block that go from tile to tile: sums, and the last ds, newest first.
template <int K>
struct Sums {
  Vec w[K], b, ds[K];
};

// dx of a token is complete K - 1 tokens later: those after the span's end are made here once more.
template <int K>
static void backward(const Span& s) {
  Sums<K> all[GROUP] = {};
  const long seen = s.end + K - 1;
  s.tiles(seen, [&](long t0, long t1, long block, long c, int lanes) {
    Filter<K> filter(s, t0, c, lanes);
    Sums<K> sums = all[block];
    for (long t = t0; t < t1; t++) {
      UNROLL for (int k = K - 1; k > 0; k--) sums.ds[k] = sums.ds[k - 1];
      sums.ds[0] = Vec{};
      if (t < s.a.n_time) {
        const Vec slope = gate(filter.sum(s.x(t, c, lanes))).slope;
        sums.ds[0] = load(s.a.dy + s.place(t) + c, lanes) * slope;
      }
      if (t < s.end) {
        sums.b += sums.ds[0];
        UNROLL for (int k = 0; k < K; k++) sums.w[k] += sums.ds[0] * filter.seen[k];
      }
      if (t - K + 1 < s.first) continue;
      Vec dx{};
      UNROLL for (int k = 0; k < K; k++) dx += filter.w[k] * sums.ds[k];
      store(s.a.dx + s.place(t - K + 1) + c, dx, lanes);
    }
    all[block] = sums;
  });
  float* part = s.a.part + s.number * (K + 1) * s.a.n_channels;
  s.tiles(s.first + 1, [&](long, long, long block, long c, int lanes) {
    for (int k = 0; k < K; k++) store(part + k * s.a.n_channels + c, all[block].w[k], lanes);
    store(part + K * s.a.n_channels + c, all[block].b, lanes);
  });
}

template <int K>
static void over_spans(const ConvArgs& a, bool back) {
  if constexpr (K < MOST_TAPS)
    if (a.n_taps > K) return over_spans<K + 1>(a, back);
  const long n_groups = (a.n_channels + GROUP_CHANNELS - 1) / GROUP_CHANNELS;
  const long n_spans = (a.n_time + TASK_STEPS - 1) / TASK_STEPS;
  in_parallel(a.n_batch * n_groups * n_spans, a.n_threads, [&](long task) {
    const Span span(a, task, n_groups, n_spans);
    back ? backward<K>(span) : forward<K>(span);
  });
}

extern "C" {
int64_t hymba_conv_task_steps() { return TASK_STEPS; }
void hymba_conv(const ConvArgs* a) { over_spans<1>(*a, false); }
void hymba_conv_backward(const ConvArgs* a) { over_spans<1>(*a, true); }
}
