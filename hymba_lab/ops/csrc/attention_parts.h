// What both ways of windowed attention share: arguments, which keys are seen, packed keys.
#pragma once

#include <algorithm>

#include "elements.h"
#include "products.h"
#include "tasks.h"

constexpr long PANEL = 64;  // keys that are packed together, queries of a block of the backward
constexpr long STRIP = 16;  // queries that go through the softmax together; a multiple of LANES

struct Heads {  // a tensor (B, heads, T, width), in any order of the first three, `width` dense
  float* data;
  int64_t row, head, token;  // strides
  float* at(long b, long h, long t) const { return data + b * row + h * head + t * token; }
};

// Mirrored field by field in attention_cpp.py.
struct AttentionArgs {
  int64_t n_rows, n_heads, n_kv_heads, n_tokens, d_key, d_value, n_meta, n_threads;
  int64_t window;  // n_tokens where there is none
  Heads q, k, v, out, d_out, dq, dk, dv;
  float *norm, *delta;  // (B, H, T): log2 of the sum of 2^score; sum over channels of d_out out
  double scale;
  long group() const { return n_heads / n_kv_heads; }
  float power() const { return (float)scale * LOG2_E; }  // turns q k into an exponent of two
};

// Key j is seen by query i if j <= i, and i - j < window or j < n_meta.
struct Span {  // the keys first..end of a panel, of which a strip of queries sees some
  long first, end;
  bool whole;  // every query sees all of them
  bool empty() const { return first >= end; }
  long columns() const { return (end - first + LANES - 1) / LANES * LANES; }
};

// What queries i0..i1-1 see of the panel that begins at j0; `first` lies whole vectors after j0.
INLINE Span seen(const AttentionArgs& s, long i0, long i1, long j0) {
  const long causal = std::min(j0 + PANEL, i1), meta = std::min(s.n_meta, causal);
  const long oldest = std::max(j0, i0 - s.window + 1);
  Span span{j0, causal, false};
  if (oldest >= causal)
    span.end = meta;
  else if (meta <= j0)
    span.first = j0 + (oldest - j0) / LANES * LANES;
  const long all = span.first + span.columns();
  span.whole = all <= i0 + 1 && std::max(span.first, s.n_meta) >= std::min(all, i1 - s.window);
  return span;
}

// -1 in the lanes of keys j, j + 1, ... that query i sees.
INLINE IntVec shown(const AttentionArgs& s, long i, long j) {
  IntVec key;
  UNROLL for (int lane = 0; lane < LANES; lane++) key[lane] = (int32_t)j + lane;
  return (key <= (int32_t)i) & ((key > (int32_t)(i - s.window)) | (key < (int32_t)s.n_meta));
}

// Rows j0.. of a head as columns: packed (width, PANEL), zero beyond the last token.
static void pack(const AttentionArgs& s, const float* rows, long stride, long width, long j0,
                 float* packed) {
  const long n = std::min(PANEL, s.n_tokens - j0);
  for (long p = 0; p < width; p++) {
    for (long j = 0; j < n; j++) packed[p * PANEL + j] = rows[j * stride + p];
    for (long j = n; j < PANEL; j++) packed[p * PANEL + j] = 0.f;
  }
}
