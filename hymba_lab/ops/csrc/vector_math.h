// Float lanes in portable GCC/clang vector extensions, and the functions the scan needs.
// One build per instruction set. Vectors are as wide as its registers: GCC takes wider ones apart
// into scalars at every comparison.
// Never compile this with -ffast-math: it folds the rounding trick of exp2 away.
#pragma once

#include <cstdint>
#include <cstring>

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
INLINE Vec at_least(Vec value, float low) {
  const Vec bound = broadcast(low);
  return value < bound ? bound : value;
}

INLINE float sum_lanes(Vec value) {
  float parts[LANES];
  memcpy(parts, &value, sizeof value);
  for (int half = LANES / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) parts[i] += parts[i + half];
  return parts[0];
}

// 2^x for x <= 127, 2^-126 below x = -126; relative error 6.4e-8.
// Adding 1.5 * 2^23 leaves the nearest integer in the low bits, which then go into the exponent.
// Polynomial on [-1/2, 1/2]: minimax of degree 6 with value 1 and slope ln 2 at zero, so that
// decays near 1 carry no bias over a long memory.
INLINE Vec exp2(Vec x) {
  constexpr float TO_INTEGER = 12582912.f;
  x = at_least(x, -126.f);
  const Vec shifted = x + TO_INTEGER;
  const Vec part = x - (shifted - TO_INTEGER);
  Vec power = broadcast(1.532119931e-4f);
  power = power * part + 1.339016249e-3f;
  power = power * part + 9.618526325e-3f;
  power = power * part + 5.550362170e-2f;
  power = power * part + 2.402264774e-1f;
  power = power * part + 6.931471825e-1f;
  power = power * part + 1.f;
  IntVec exponent, bits;
  memcpy(&exponent, &shifted, sizeof exponent);
  memcpy(&bits, &power, sizeof bits);
  bits += exponent << 23;
  memcpy(&power, &bits, sizeof power);
  return power;
}

struct Softplus {
  Vec value, slope;  // log(1 + e^x) and its derivative, the sigmoid
};

// max(x, 0) + log1p(e), e = exp(-|x|), through log1p(e) = 2 atanh(e / (2 + e)).
INLINE Softplus softplus(Vec x) {
  const Vec decay = exp2((x > 0.f ? -x : x) * LOG2_E);
  const Vec ratio = decay / (decay + 2.f), square = ratio * ratio;
  Vec series = broadcast(1.f / 13);
  series = series * square + 1.f / 11;
  series = series * square + 1.f / 9;
  series = series * square + 1.f / 7;
  series = series * square + 1.f / 5;
  series = series * square + 1.f / 3;
  series = series * square + 1.f;
  const Vec one = broadcast(1.f);
  return {at_least(x, 0.f) + 2.f * ratio * series, (x > 0.f ? one : decay) / (one + decay)};
}

INLINE Vec sigmoid(Vec x) {
  // outside +-80 the value is 1 or below the smallest normal number
  const Vec bounded = at_least(x, -80.f);
  return 1.f / (1.f + exp2(-bounded * LOG2_E));
}
