// Small functions of every element, each in one pass over memory: SwiGLU and the rotation of RoPE.
#include "elements.h"
#include "tasks.h"

constexpr long TASK_ELEMENTS = 1 << 14;  // of SwiGLU

struct SwigluArgs {  // mirrored field by field in swiglu.py; all tensors are dense
  int64_t n, n_threads;
  const float *gate, *up, *dy;
  float *y, *d_gate, *d_up;
};

// Runs body(i, lanes) over all elements, a vector at a time.
template <class Body>
static void everywhere(const SwigluArgs& a, Body body) {
  in_parallel((a.n + TASK_ELEMENTS - 1) / TASK_ELEMENTS, a.n_threads, [&](long task) {
    const long first = task * TASK_ELEMENTS, left = a.n - first;
    const long end = first + (left < TASK_ELEMENTS ? left : TASK_ELEMENTS);
    for (long i = first; i < end; i += LANES) body(i, lanes_from(i, end));
  });
}

struct RotateArgs {  // mirrored field by field in rotary.py
  int64_t n_rows, n_heads, n_tokens, half, n_threads;
  int64_t row, head, token;  // strides of x (B,H,T,P); y is dense in the order (B,T,H,P)
  const float *x, *cos, *sin;  // cos, sin (T,P)
  float* y;
  double sign;  // -1 turns back
};

// y1 = x1 cos - x2 sin, y2 = x2 cos + x1 sin for the pair (i, i + half)
static void rotate_head(const RotateArgs& a, const float* __restrict x, const float* __restrict cos,
                        const float* __restrict sin, float* __restrict y) {
  const float sign = (float)a.sign;
  for (long i = 0; i < a.half; i++) {
    const float low = x[i], high = x[i + a.half], turn = sign * sin[i];
    y[i] = low * cos[i] - high * turn;
    y[i + a.half] = high * cos[i] + low * turn;
  }
}

extern "C" {
// y = silu(gate) up
void hymba_swiglu(const SwigluArgs* a) {
  everywhere(*a, [&](long i, int lanes) {
    store(a->y + i, gate(load(a->gate + i, lanes)).value * load(a->up + i, lanes), lanes);
  });
}

void hymba_swiglu_backward(const SwigluArgs* a) {
  everywhere(*a, [&](long i, int lanes) {
    const Gate opened = gate(load(a->gate + i, lanes));
    const Vec dy = load(a->dy + i, lanes);
    store(a->d_up + i, dy * opened.value, lanes);
    store(a->d_gate + i, dy * load(a->up + i, lanes) * opened.slope, lanes);
  });
}

void hymba_rotate_all(const RotateArgs* a) {
  const long width = 2 * a->half;
  in_parallel(a->n_rows, a->n_threads, [&](long row) {
    for (long t = 0; t < a->n_tokens; t++)
      for (long h = 0; h < a->n_heads; h++)
        rotate_head(*a, a->x + row * a->row + h * a->head + t * a->token, a->cos + t * width,
                    a->sin + t * width + a->half,
                    a->y + ((row * a->n_tokens + t) * a->n_heads + h) * width);
  });
}
}
