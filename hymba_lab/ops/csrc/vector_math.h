// Float lanes in portable GCC/clang vector extensions, and the functions the scan needs.
// One build per instruction set. Vectors are as wide as its registers: GCC takes wider ones apart
// into scalars at every comparison.
// Never compile this with -ffast-math: it folds the rounding trick of exp2 away.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__) && defined(__clang__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float Vec __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t IntVec __attribute__((vector_size(LANES * sizeof(int32_t))));

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float LN_2 = 0.6931471805599453f;

INLINE Vec broadcast(float value) { return value - Vec{}; }

INLINE Vec load(const float* from) {
  Vec value;
  memcpy(&value, from, sizeof value);
  return value;
}

INLINE void store(float* to, Vec value) { memcpy(to, &value, sizeof value); }

// The first `lanes` values, the rest zero.
INLINE Vec load(const float* from, int lanes) {
  if (lanes == LANES) return load(from);
  Vec value{};
  for (int i = 0; i < lanes; i++) value[i] = from[i];
  return value;
}

INLINE void store(float* to, Vec value, int lanes) {
  if (lanes == LANES) return store(to, value);
  for (int i = 0; i < lanes; i++) to[i] = value[i];
}

// `lanes` values that lie `stride` floats apart.
INLINE Vec gather(const float* from, long stride, int lanes) {
  Vec value{};
  for (int i = 0; i < lanes; i++) value[i] = from[i * stride];
  return value;
}

INLINE void scatter(float* to, long stride, Vec value, int lanes) {
  for (int i = 0; i < lanes; i++) to[i * stride] = value[i];
}

// The comparisons are written so that NaN in `value` stays NaN: a diverged run must be seen.
INLINE Vec at_least(Vec value, Vec low) { return value < low ? low : value; }

INLINE Vec at_least(Vec value, float low) { return at_least(value, broadcast(low)); }

INLINE float sum_lanes(Vec value) {
  float parts[LANES];
  memcpy(parts, &value, sizeof value);
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) parts[i] += parts[i + half];
  return parts[0];
}

// Whether a lane lies below the bound or is NaN.
INLINE bool any_below(Vec value, float bound) {
  const IntVec above = value >= broadcast(bound);
  int32_t every = -1;
  for (int i = 0; i < LANES; i++) every &= above[i];
  return !every;
}

// Lane l of the result is lane l of `low` where bit HALF of l is 0, of `high` where it is 1, plus
// the lane of the same vector at the other side of that bit.
template <int HALF, int... L>
INLINE Vec fold(Vec low, Vec high, std::integer_sequence<int, L...>) {
#ifdef __clang__
  return __builtin_shufflevector(low, high, (L & HALF ? LANES + L : L)...) +
         __builtin_shufflevector(low, high, (L & HALF ? LANES + L - HALF : L + HALF)...);
#else
  return __builtin_shuffle(low, high, IntVec{(L & HALF ? LANES + L : L)...}) +
         __builtin_shuffle(low, high, IntVec{(L & HALF ? LANES + L - HALF : L + HALF)...});
#endif
}

// Lane l of the result is the sum over the lanes of rows[l].
template <int HALF = LANES / 2>
INLINE Vec sums_of(Vec* rows) {
  UNROLL for (int i = 0; i < HALF; i++)
    rows[i] = fold<HALF>(rows[i], rows[i + HALF], std::make_integer_sequence<int, LANES>());
  if constexpr (HALF > 1) return sums_of<HALF / 2>(rows);
  return rows[0];
}

// 2^x for x <= 127; 2^-126 below x = -126 if DEEP, which may be left out where no x is so low.
// Relative error 6.5e-8, with the table 1.1e-7.
//
// x = k / STEPS + part: adding 1.5 * 2^23 / STEPS leaves the integer k in the low bits of the sum,
// from where its whole part goes into the exponent. With a product as x the compiler fuses both
// roundings into it. In both forms 2^0 is exactly 1 with the slope ln 2, so that decays near 1 carry
// no bias over a long memory.
template <bool DEEP = true>
INLINE Vec exp2(Vec x) {
#ifdef __AVX512F__
  // a table of 16 in one register: a polynomial of degree 3 is enough on [-1/32, 1/32]
  constexpr int STEPS = 16, EXPONENT = 19;
  // entry i is 2^(i/16) with i taken off its exponent field, which `steps` puts back
  const Vec table = {1.f, 0.990886867f, 0.982753873f, 0.97564429f,
                     0.969603539f, 0.964678884f, 0.960919797f, 0.958377779f,
                     0.957106769f, 0.957163095f, 0.958605409f, 0.961495161f,
                     0.965896428f, 0.971876085f, 0.979504049f, 0.988853276f};
#else
  // minimax of degree 6 on [-1/2, 1/2]
  constexpr int STEPS = 1, EXPONENT = 23;
#endif
  constexpr float TO_INTEGER = 12582912.f / STEPS;
  if (DEEP) x = at_least(x, -126.f);
  const Vec shifted = x + TO_INTEGER;
  const Vec part = x - (shifted - TO_INTEGER);
  IntVec steps, bits;
  memcpy(&steps, &shifted, sizeof steps);
#ifdef __AVX512F__
#ifdef __clang__
  Vec root = _mm512_permutexvar_ps((__m512i)steps, table);
#else
  Vec root = __builtin_shuffle(table, steps);  // by the lowest four bits
#endif
  Vec series = 5.550410867e-2f * part + 2.402335518e-1f;
  series = series * part + 6.931471806e-1f;
  memcpy(&bits, &root, sizeof bits);
  bits += steps << EXPONENT;
  memcpy(&root, &bits, sizeof root);
  return root + root * part * series;
#else
  Vec power = broadcast(1.532119931e-4f);
  power = power * part + 1.339016249e-3f;
  power = power * part + 9.618526325e-3f;
  power = power * part + 5.550362170e-2f;
  power = power * part + 2.402264774e-1f;
  power = power * part + 6.931471825e-1f;
  power = power * part + 1.f;
  memcpy(&bits, &power, sizeof bits);
  bits += steps << EXPONENT;
  memcpy(&power, &bits, sizeof power);
  return power;
#endif
}

struct Softplus {
  Vec value, slope;  // log(1 + e^x) and its derivative, the sigmoid
};

// max(x, 0) + log(1 + e), e = exp(-|x|); log(1 + e) / e by a minimax polynomial on [0, 1].
INLINE Softplus softplus(Vec x) {
  const Vec e = exp2((x > 0.f ? -x : x) * LOG2_E);
  Vec series = broadcast(-3.244021130e-3f);
  series = series * e + 1.985144412e-2f;
  series = series * e + -5.695950000e-2f;
  series = series * e + 1.060365141e-1f;
  series = series * e + -1.530559052e-1f;
  series = series * e + 1.967593855e-1f;
  series = series * e + -2.495413352e-1f;
  series = series * e + 3.332996240e-1f;
  series = series * e + -4.999990242e-1f;
  series = series * e + 1.f;
  const Vec one = broadcast(1.f);
  return {at_least(x, 0.f) + e * series, (x > 0.f ? one : e) / (one + e)};
}

INLINE Vec sigmoid(Vec x) {
  // outside +-80 the value is 1 or below the smallest normal number
  const Vec bounded = at_least(x, -80.f);
  return 1.f / (1.f + exp2(-bounded * LOG2_E));
}
