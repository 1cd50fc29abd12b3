// RMSNorm of rows and its gradients, each in one pass over memory.
//
//   y = x r w,  r = (mean(x^2) + eps)^-1/2
//   dx = r dy w - x r^3 mean(dy w x),  dw = sum over rows of dy x r
#include "tasks.h"

constexpr long TASK_ROWS = 128;  // rows of one task; fixed, so that threads change no bit

struct NormArgs {  // mirrored field by field in rms_norm.py
  int64_t n_rows, width, x_stride, n_threads;  // x_stride: floats from one row of x to the next
  const float *x, *w, *dy;                     // x, dy (rows, width)  w (width)
  float *y, *r, *dx, *part;                    // r (rows)  part (tasks, width): dw of each task
  double eps;
};

// Runs body(i, lanes) over the width, a vector at a time.
template <class Body>
INLINE void over(long width, Body body) {
  for (long i = 0; i < width; i += LANES) body(i, width - i < LANES ? (int)(width - i) : LANES);
}

static void forward_row(const NormArgs& a, long row) {
  const float* x = a.x + row * a.x_stride;
  float* y = a.y + row * a.width;
  Vec squares{};
  over(a.width, [&](long i, int lanes) {
    const Vec part = load(x + i, lanes);
    squares += part * part;
  });
  const float r = 1.f / __builtin_sqrtf(sum_lanes(squares) / a.width + (float)a.eps);
  a.r[row] = r;
  over(a.width, [&](long i, int lanes) {
    store(y + i, load(x + i, lanes) * r * load(a.w + i, lanes), lanes);
  });
}

static void backward_row(const NormArgs& a, long row, float* part) {
  const float *x = a.x + row * a.x_stride, *dy = a.dy + row * a.width;
  float* dx = a.dx + row * a.width;
  const float r = a.r[row];
  Vec products{};
  over(a.width, [&](long i, int lanes) {
    const Vec both = load(dy + i, lanes) * load(x + i, lanes);
    products += both * load(a.w + i, lanes);
    store(part + i, load(part + i, lanes) + both * r, lanes);
  });
  const float pull = r * (r * r * (sum_lanes(products) / a.width));
  over(a.width, [&](long i, int lanes) {
    const Vec pushed = load(dy + i, lanes) * load(a.w + i, lanes) * r;
    store(dx + i, pushed - load(x + i, lanes) * pull, lanes);
  });
}

template <class Row>
static void over_rows(const NormArgs& a, Row row) {
  in_parallel((a.n_rows + TASK_ROWS - 1) / TASK_ROWS, a.n_threads, [&](long task) {
    const long first = task * TASK_ROWS, left = a.n_rows - first;
    for (long i = first; i < first + (left < TASK_ROWS ? left : TASK_ROWS); i++) row(i, task);
  });
}

extern "C" {
int64_t hymba_rms_norm_task_rows() { return TASK_ROWS; }

void hymba_rms_norm(const NormArgs* a) {
  over_rows(*a, [&](long row, long) { forward_row(*a, row); });
}

void hymba_rms_norm_backward(const NormArgs* a) {
  over_rows(*a, [&](long row, long task) { backward_row(*a, row, a->part + task * a->width); });
}
}
