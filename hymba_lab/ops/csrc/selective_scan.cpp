// Selective scan of Mamba on a CPU: forward and backward, float32, behind a plain C ABI.
//
//   delta_t = softplus(dt_t + dt_bias)
//   h_t     = exp(delta_t A) h_{t-1} + delta_t x_t B_t
//   y_t     = (C_t h_t + D x_t) * SiLU(z_t)
//
// Lanes run over channels. A task is one batch row and one group of channels, and adds in an order
// of its own, so the result does not depend on the number of threads. The forward keeps the state
// before every chunk of steps; the backward recomputes the states inside a chunk, in cache.
#include "backward.h"
#include "forward.h"

// total[i] = sum over parts p of parts[p, i], added in the order of p
static void add_parts(const float* parts, long n_parts, long size, float* total) {
  memset(total, 0, size * sizeof(float));
  for (long p = 0; p < n_parts; p++)
    for (long i = 0; i < size; i++) total[i] += parts[p * size + i];
}

extern "C" {

// Everything the Python side assumes about this file in one number.
int64_t hymba_scan_layout() {
  return (((int64_t)CHUNK * 1000 + PADDED) * 1000 + GROUP_CHANNELS) * 1000 + sizeof(ScanArgs);
}

void hymba_scan_forward(const ScanArgs* s) {
  const long groups = Sizes(*s).n_groups;
  in_parallel(s->n_batch * groups, s->n_threads,
              [=](long i) { forward_task(*s, i / groups, i % groups); });
}

void hymba_scan_backward(const ScanArgs* s) {
  const long groups = Sizes(*s).n_groups;
  in_parallel(s->n_batch * groups, s->n_threads,
              [=](long i) { backward_task(*s, i / groups, i % groups); });
  const long tokens = s->n_batch * s->n_time;
  add_parts(s->part_B, groups, tokens * s->n_states, s->grad_B);
  add_parts(s->part_C, groups, tokens * s->n_states, s->grad_C);
  add_parts(s->part_A, s->n_batch, s->n_channels * s->n_states, s->grad_A);
  add_parts(s->part_D, s->n_batch, s->n_channels, s->grad_D);
  if (s->grad_dt_bias) add_parts(s->part_dt_bias, s->n_batch, s->n_channels, s->grad_dt_bias);
}
}
