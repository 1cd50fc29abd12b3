// Reading and writing lanes of float or bfloat16 memory; all arithmetic is float.
#pragma once

#include <utility>

#include "vector_math.h"

typedef uint32_t BitsVec __attribute__((vector_size(LANES * sizeof(uint32_t))));
typedef uint16_t HalfVec __attribute__((vector_size(LANES * sizeof(uint16_t))));

struct Bfloat16 {  // the upper half of a float
  uint16_t bits;
};

INLINE float number(float value) { return value; }

INLINE float number(Bfloat16 value) {
  const uint32_t bits = (uint32_t)value.bits << 16;
  float result;
  memcpy(&result, &bits, sizeof result);
  return result;
}

INLINE void put(float* to, float value) { *to = value; }

INLINE void put(Bfloat16* to, float value) {  // to the nearest, ties to even; NaN stays NaN
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  to->bits = value != value ? 0x7fc0 : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

INLINE Vec load(const Bfloat16* from) {
  HalfVec halves;
  memcpy(&halves, from, sizeof halves);
  const BitsVec bits = __builtin_convertvector(halves, BitsVec) << 16;
  Vec value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

INLINE void store(Bfloat16* to, Vec value) {
  BitsVec bits;
  memcpy(&bits, &value, sizeof bits);
  const BitsVec rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const BitsVec kept = value == value ? rounded : rounded - rounded + 0x7fc0;
  const HalfVec halves = __builtin_convertvector(kept, HalfVec);
  memcpy(to, &halves, sizeof halves);
}

INLINE Vec load(const Bfloat16* from, int lanes) {
  if (lanes == LANES) return load(from);
  Vec value{};
  for (int i = 0; i < lanes; i++) value[i] = number(from[i]);
  return value;
}

INLINE void store(Bfloat16* to, Vec value, int lanes) {
  if (lanes == LANES) return store(to, value);
  for (int i = 0; i < lanes; i++) put(to + i, value[i]);
}

INLINE int lanes_from(long place, long end) {
  return (int)(end - place < LANES ? end - place : LANES);
}

