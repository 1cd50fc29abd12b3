// The gradients of windowed attention, with the weights computed again from their norm.
//
//   p = 2^(q k scale log2(e) - norm),  dv = p^T d_out,  ds = p (d_out v^T - delta) scale,
//   dq = ds k,  dk = ds^T q
#pragma once

#include "attention_parts.h"

// One panel of keys against blocks of queries.
struct Panel {
  const AttentionArgs& s;
  long b, kv, j0;
  Array<float> keys, values;   // (P, PANEL), (V, PANEL)
  Array<float> weights, pull;  // p and ds of a block, (PANEL queries, PANEL keys)

  Panel(const AttentionArgs& s, long b, long kv)
      : s(s), b(b), kv(kv), j0(0), keys(zeros<float>(s.d_key * PANEL)),
        values(zeros<float>(s.d_value * PANEL)), weights(zeros<float>(PANEL * PANEL)),
        pull(zeros<float>(PANEL * PANEL)) {}

  void take(long first) {
    j0 = first;
    pack(s, s.k.at(b, kv, j0), s.k.token, s.d_key, j0, keys.get());
    pack(s, s.v.at(b, kv, j0), s.v.token, s.d_value, j0, values.get());
  }

  // p and ds of query i from q k and d_out v^T, which stand in their place.
  void weigh(long h, long i, Span span, float* p, float* ds) const {
    const long at = (b * s.n_heads + h) * s.n_tokens + i;
    for (long j = 0; j < span.columns(); j += LANES) {
      Vec weight = exp2(load(p + j) * s.power() - s.norm[at]);
      if (!span.whole) weight = shown(s, i, span.first + j) ? weight : Vec{};
      store(p + j, weight);
      store(ds + j, weight * (load(ds + j) - s.delta[at]) * (float)s.scale);
    }
  }

  // Queries i0..i0+n-1 of a strip: fills their rows of p and ds, adds to dq.
  void strip(long h, long i0, long n, long row) {
    const Span span = seen(s, i0, i0 + n, j0);
    float *p = &weights[row * PANEL], *ds = &pull[row * PANEL];
    if (span.empty() || span.columns() < PANEL) {
      memset(p, 0, n * PANEL * sizeof(float));
      memset(ds, 0, n * PANEL * sizeof(float));
    }
    if (span.empty()) return;
    const long at = span.first - j0;
    product(false, n, span.columns(), s.d_key, {s.q.at(b, h, i0), s.q.token, 1}, &keys[at], PANEL,
            p + at, PANEL);
    product(false, n, span.columns(), s.d_value, {s.d_out.at(b, h, i0), s.d_out.token, 1},
            &values[at], PANEL, ds + at, PANEL);
    for (long r = 0; r < n; r++) weigh(h, i0 + r, span, p + r * PANEL + at, ds + r * PANEL + at);
    product(true, n, s.d_key, span.end - span.first, {ds + at, PANEL, 1}, s.k.at(b, kv, span.first),
            s.k.token, s.dq.at(b, h, i0), s.dq.token);
  }

  // Queries i0..i0+n-1 of head h; false if neither they nor later ones see the panel.
  bool block(long h, long i0, long n) {
    const long end = std::min(j0 + PANEL, s.n_tokens);
    if (j0 >= s.n_meta && i0 - s.window >= end - 1) return false;
    for (long row = 0; row < n; row += STRIP) strip(h, i0 + row, std::min(STRIP, n - row), row);
    for (long j = j0; j < end; j += STRIP) {  // the queries that see keys j, j + 1, ...
      const long n_keys = std::min(STRIP, end - j);
      const long from = std::max(i0, j) - i0;
      const long to = std::min(n, j < s.n_meta ? n : j + n_keys - 1 + s.window - i0);
      if (from >= to) continue;
      const long at = from * PANEL + j - j0;
      product(true, n_keys, s.d_value, to - from, {&weights[at], 1, PANEL},
              s.d_out.at(b, h, i0 + from), s.d_out.token, s.dv.at(b, kv, j), s.dv.token);
      product(true, n_keys, s.d_key, to - from, {&pull[at], 1, PANEL}, s.q.at(b, h, i0 + from),
              s.q.token, s.dk.at(b, kv, j), s.dk.token);
    }
    return true;
  }
};

INLINE float dot(const float* a, const float* b, long width) {
  Vec sum{};
  for (long c = 0; c < width; c += LANES) {
    const int lanes = lanes_from(c, width);
    sum += load(a + c, lanes) * load(b + c, lanes);
  }
  return sum_lanes(sum);
}

// All heads of one group in one row; dq, dk and dv begin as zeros.
static void attend_backward(const AttentionArgs& s, long b, long kv) {
  const long first = kv * s.group(), end = first + s.group();
  for (long h = first; h < end; h++)
    for (long i = 0; i < s.n_tokens; i++)
      s.delta[(b * s.n_heads + h) * s.n_tokens + i] =
          dot(s.d_out.at(b, h, i), s.out.at(b, h, i), s.d_value);
  Panel panel(s, b, kv);
  for (long j0 = 0; j0 < s.n_tokens; j0 += PANEL) {
    panel.take(j0);
    for (long h = first; h < end; h++)
      for (long i0 = j0; i0 < s.n_tokens; i0 += PANEL)
        if (!panel.block(h, i0, std::min(PANEL, s.n_tokens - i0))) break;
  }
}
