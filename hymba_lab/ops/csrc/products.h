// Products of small matrices in registers: what attention is made of.
#pragma once

#include "vector_math.h"

#if defined(__AVX512F__)
constexpr int ACCUMULATORS = 16, WIDEST = 4;  // vectors of a tile, vectors of its rows at most
typedef float Half __attribute__((vector_size(LANES / 2 * sizeof(float))));
#else
constexpr int ACCUMULATORS = 8, WIDEST = 2;
typedef Vec Half;  // never needed: widths are multiples of 8
#endif

struct Factor {  // element (i, k) of a matrix lies at data[i * row + k * column]
  const float* data;
  long row, column;
  Factor below(long rows) const { return {data + rows * row, row, column}; }
};

template <class Lanes>
INLINE Lanes lanes_at(const float* from) {
  Lanes value;
  memcpy(&value, from, sizeof value);
  return value;
}

// ROWS x WIDTH vectors of y = a b, or += with `add`; rows of b and y are dense.
template <class Lanes, int ROWS, int WIDTH>
INLINE void tile(bool add, long inner, Factor a, const float* b, long b_row, float* y, long y_row) {
  constexpr int STEP = sizeof(Lanes) / sizeof(float);
  Lanes sum[ROWS][WIDTH] = {};
  if (add)
    UNROLL for (int r = 0; r < ROWS; r++)
      UNROLL for (int w = 0; w < WIDTH; w++) sum[r][w] = lanes_at<Lanes>(y + r * y_row + w * STEP);
  for (long k = 0; k < inner; k++) {
    Lanes part[WIDTH];
    UNROLL for (int w = 0; w < WIDTH; w++) part[w] = lanes_at<Lanes>(b + k * b_row + w * STEP);
    UNROLL for (int r = 0; r < ROWS; r++) {
      const float factor = a.data[r * a.row + k * a.column];
      UNROLL for (int w = 0; w < WIDTH; w++) sum[r][w] += factor * part[w];
    }
  }
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int w = 0; w < WIDTH; w++)
      memcpy(y + r * y_row + w * STEP, &sum[r][w], sizeof(Lanes));
}

// All rows of WIDTH vectors, as many at a time as there are registers for, then by halves.
template <class Lanes, int WIDTH, int ROWS = ACCUMULATORS / WIDTH>
static void strip(bool add, long rows, long inner, Factor a, const float* b, long b_row, float* y,
                  long y_row) {
  long r = 0;
  for (; r + ROWS <= rows; r += ROWS)
    tile<Lanes, ROWS, WIDTH>(add, inner, a.below(r), b, b_row, y + r * y_row, y_row);
  if constexpr (ROWS > 1)
    if (r < rows)
      strip<Lanes, WIDTH, ROWS / 2>(add, rows - r, inner, a.below(r), b, b_row, y + r * y_row,
                                    y_row);
}

// y (rows, columns) = a (rows, inner) b (inner, columns), or += with `add`; columns is a multiple of
// 8 or of LANES.
template <int WIDTH = WIDEST>
static void product(bool add, long rows, long columns, long inner, Factor a, const float* b,
                    long b_row, float* y, long y_row) {
  long c = 0;
  for (; c + WIDTH * LANES <= columns; c += WIDTH * LANES)
    strip<Vec, WIDTH>(add, rows, inner, a, b + c, b_row, y + c, y_row);
  if (c == columns) return;
  if constexpr (WIDTH > 1)
    product<WIDTH / 2>(add, rows, columns - c, inner, a, b + c, b_row, y + c, y_row);
  else
    strip<Half, 1>(add, rows, inner, a, b + c, b_row, y + c, y_row);
}
