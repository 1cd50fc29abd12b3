// out = softmax(q k^T scale) v by strips of queries, with a running maximum over panels of keys.
#pragma once

#include "attention_parts.h"

constexpr long TASK_QUERIES = 256;  // of one task of the forward
constexpr float LOWEST = -1e30f;    // a score that no key reaches; finite, so that differences are

INLINE float max_lanes(Vec value) {
  float most = value[0];
  UNROLL for (int i = 1; i < LANES; i++) most = value[i] > most ? value[i] : most;
  return most;
}

// One strip on its way: sums over the keys so far, relative to the largest exponent so far.
struct Softmax {
  long V;  // channels of a value, in whole vectors
  float most[STRIP], sum[STRIP];
  Array<float> scores, values;  // (STRIP, PANEL), (STRIP, V)

  explicit Softmax(long d_value)
      : V((d_value + LANES - 1) / LANES * LANES), scores(zeros<float>(STRIP * PANEL)),
        values(zeros<float>(STRIP * V)) {}

  void clear() {
    for (long r = 0; r < STRIP; r++) most[r] = LOWEST, sum[r] = 0.f;
    memset(values.get(), 0, STRIP * V * sizeof(float));
  }

  // Turns the scores of query i (row r) into weights and brings the sums to the new maximum.
  void raise(const AttentionArgs& s, long r, long i, Span span) {
    float* row = &scores[r * PANEL];
    const long n = span.columns();
    Vec highest = broadcast(most[r]);
    for (long j = 0; j < n; j += LANES) {
      Vec score = load(row + j) * s.power();
      if (!span.whole) score = shown(s, i, span.first + j) ? score : broadcast(LOWEST);
      store(row + j, score);
      highest = score > highest ? score : highest;
    }
    const float now = max_lanes(highest);
    if (now != most[r]) {
      const Vec shrink = exp2(broadcast(most[r] - now));
      sum[r] *= shrink[0];
      for (long c = r * V; c < (r + 1) * V; c += LANES)
        store(&values[c], load(&values[c]) * shrink);
      most[r] = now;
    }
    Vec total{};
    for (long j = 0; j < n; j += LANES) {
      Vec weight = exp2(load(row + j) - now);
      if (!span.whole) weight = shown(s, i, span.first + j) ? weight : Vec{};
      store(row + j, weight);
      total += weight;
    }
    sum[r] += sum_lanes(total);
  }
};

// Queries first..end-1 of all heads of one group in one row.
static void attend_forward(const AttentionArgs& s, long b, long kv, long first, long end) {
  const long P = s.d_key, V = s.d_value;
  const long n_panels = (end + PANEL - 1) / PANEL;
  const auto keys = zeros<float>(n_panels * P * PANEL);
  for (long j = 0; j < n_panels; j++)
    if (!seen(s, first, end, j * PANEL).empty())
      pack(s, s.k.at(b, kv, j * PANEL), s.k.token, P, j * PANEL, &keys[j * P * PANEL]);
  Softmax strip(V);
  for (long h = kv * s.group(); h < (kv + 1) * s.group(); h++)
    for (long i0 = first; i0 < end; i0 += STRIP) {
      const long n = std::min(STRIP, end - i0);
      strip.clear();
      for (long j0 = 0; j0 < i0 + n; j0 += PANEL) {
        const Span span = seen(s, i0, i0 + n, j0);
        if (span.empty()) continue;
        product(false, n, span.columns(), P, {s.q.at(b, h, i0), s.q.token, 1},
                &keys[j0 * P + span.first - j0], PANEL, strip.scores.get(), PANEL);
        for (long r = 0; r < n; r++) strip.raise(s, r, i0 + r, span);
        product(true, n, V, span.end - span.first, {strip.scores.get(), PANEL, 1},
                s.v.at(b, kv, span.first), s.v.token, strip.values.get(), strip.V);
      }
      for (long r = 0; r < n; r++) {
        const float share = 1.f / strip.sum[r];
        for (long c = 0; c < V; c += LANES)
          store(s.out.at(b, h, i0 + r) + c, load(&strip.values[r * strip.V + c]) * share,
                lanes_from(c, V));
        s.norm[(b * s.n_heads + h) * s.n_tokens + i0 + r] =
            strip.most[r] + __builtin_log2f(strip.sum[r]);
      }
    }
}
