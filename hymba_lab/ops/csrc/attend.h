// One query of each head over the keys and values kept: softmax(q k^T scale) v.
#pragma once

#include <vector>

#include "elements.h"

// Mirrored in one_token.py. q (B,H,P)  k (B,K,S,P)  v (B,K,S,V)  n_keys (B)  out (B,H,V); strides in
// elements; the last dimension of q, k and v is dense.
struct AttendArgs {
  int64_t n_rows, n_heads, n_kv_heads, d_key, d_value;
  int64_t k_row, k_head, k_token, v_row, v_head, v_token;  // strides
  const int64_t* n_keys;                                   // how many keys a row sees
  const void *q, *k, *v;
  void* out;
  double scale;
};

constexpr int TILE = 6;  // query heads that one pass over the values serves at most

// scores[h, s] = q_h k_s for all heads of a group: LANES keys at a time, so that one fold adds up
// the lanes of all of them, and each key is read and widened once. Rows of q and of `tile` are
// padded with zeros to a multiple of LANES.
template <class T>
static void attend_scores(long group, long n_keys, long P, const T* k, long stride, const float* q,
                          float* tile, float* scores) {
  const long padded = (P + LANES - 1) / LANES * LANES;
  for (long s = 0; s < n_keys; s += LANES) {
    const int n_own = lanes_from(s, n_keys);
    for (int i = 0; i < n_own; i++)
      for (long p = 0; p < P; p += LANES)
        store(tile + i * padded + p, load(k + (s + i) * stride + p, lanes_from(p, P)));
    for (long h = 0; h < group; h++) {
      Vec dots[LANES] = {};
      for (long p = 0; p < padded; p += LANES) {
        const Vec query = load(q + h * padded + p);
        UNROLL for (int i = 0; i < LANES; i++) dots[i] += query * load(tile + i * padded + p);
      }
      store(scores + h * n_keys + s, sums_of(dots), n_own);
    }
  }
}

// Turns scores into 2^(score - the largest) and returns their sum. NaN stays NaN.
static float raise(long n_keys, float* scores) {
  Vec most = broadcast(scores[0]);
  long s0 = 0;
  for (; s0 + LANES <= n_keys; s0 += LANES) {
    const Vec some = load(scores + s0);
    most = some > most ? some : most;
  }
  float largest = most[0];
  for (int i = 1; i < LANES; i++) largest = most[i] > largest ? most[i] : largest;
  for (; s0 < n_keys; s0++) largest = scores[s0] > largest ? scores[s0] : largest;
  Vec sum{};
  for (long s = 0; s < n_keys; s += LANES) {
    const int lanes = lanes_from(s, n_keys);
    const Vec raised = exp2(load(scores + s, lanes) - largest);
    store(scores + s, raised, lanes);
    if (lanes == LANES)
      sum += raised;
    else
      for (int i = 0; i < lanes; i++) sum[i] += raised[i];
  }
  return sum_lanes(sum);
}

// out[h] = sum_s weights[h, s] v_s / sums[h] in WIDTH vectors from channel c on, for HEADS heads
template <int HEADS, int WIDTH, bool FULL, class T>
INLINE void attend_channels(long c, long n_keys, long V, const T* v, long stride,
                            const float* weights, const float* sums, T* out) {
  const int lanes = FULL ? LANES : lanes_from(c, V);
  Vec total[HEADS][WIDTH] = {};
  for (long s = 0; s < n_keys; s++) {
    Vec value[WIDTH];
    UNROLL for (int w = 0; w < WIDTH; w++)
      value[w] = load(v + s * stride + c + w * LANES, lanes);
    UNROLL for (int h = 0; h < HEADS; h++)
      UNROLL for (int w = 0; w < WIDTH; w++) total[h][w] += weights[h * n_keys + s] * value[w];
  }
  for (int h = 0; h < HEADS; h++)
    for (int w = 0; w < WIDTH; w++)
      store(out + h * V + c + w * LANES, total[h][w] / sums[h], lanes);
}

// The same for all channels, for as many heads as there are, at most HEADS.
template <int HEADS, class T>
static void attend_values(long n_heads, long n_keys, long V, const T* v, long stride,
                          const float* weights, const float* sums, T* out) {
  if constexpr (HEADS > 1)
    if (n_heads < HEADS)
      return attend_values<HEADS - 1>(n_heads, n_keys, V, v, stride, weights, sums, out);
  long c = 0;
  for (; c + 2 * LANES <= V; c += 2 * LANES)
    attend_channels<HEADS, 2, true>(c, n_keys, V, v, stride, weights, sums, out);
  for (; c + LANES <= V; c += LANES)
    attend_channels<HEADS, 1, true>(c, n_keys, V, v, stride, weights, sums, out);
  if (c < V)
    attend_channels<HEADS, 1, false>(c, n_keys, V, v, stride, weights, sums, out);
}

// All query heads of one key head of one row.
template <class T>
static void attend_task(const AttendArgs& s, long row, long kv_head) {
  const long P = s.d_key, V = s.d_value, n_keys = s.n_keys[row];
  const long group = s.n_heads / s.n_kv_heads, first = row * s.n_heads + kv_head * group;
  const T* k = (const T*)s.k + row * s.k_row + kv_head * s.k_head;
  const T* v = (const T*)s.v + row * s.v_row + kv_head * s.v_head;
  const long padded = (P + LANES - 1) / LANES * LANES;
  std::vector<float> q(group * padded), tile(LANES * padded), weights(group * n_keys), sums(group);
  for (long h = 0; h < group; h++)
    for (long p = 0; p < P; p++)  // powers of two from here on
      q[h * padded + p] = number(((const T*)s.q)[(first + h) * P + p]) * (float)s.scale * LOG2_E;
  attend_scores(group, n_keys, P, k, s.k_token, q.data(), tile.data(), weights.data());
  for (long h = 0; h < group; h++) sums[h] = raise(n_keys, &weights[h * n_keys]);
  for (long h = 0; h < group; h += TILE)
    attend_values<TILE>(group - h, n_keys, V, v, s.v_token, &weights[h * n_keys], &sums[h],
                        (T*)s.out + (first + h) * V);
}
