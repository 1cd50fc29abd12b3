// Causal attention with a window and tokens that are always visible, float, both ways.
//
// Keys may be narrower than values, query heads share key heads, and only pairs that are seen cost
// work (up to the vectors and strips that they lie in). A task writes what no other task writes, so
// that threads change no bit.
#include "attention_backward.h"
#include "attention_forward.h"

extern "C" {
void hymba_attention(const AttentionArgs* s) {
  const long slices = (s->n_tokens + TASK_QUERIES - 1) / TASK_QUERIES;
  in_parallel(s->n_rows * s->n_kv_heads * slices, s->n_threads, [&](long task) {
    // the longest first, so that the threads end together
    const long slice = slices - 1 - task / (s->n_rows * s->n_kv_heads);
    const long head = task % (s->n_rows * s->n_kv_heads), first = slice * TASK_QUERIES;
    attend_forward(*s, head / s->n_kv_heads, head % s->n_kv_heads, first,
                   std::min<long>(first + TASK_QUERIES, s->n_tokens));
  });
}

void hymba_attention_backward(const AttentionArgs* s) {
  in_parallel(s->n_rows * s->n_kv_heads, s->n_threads,
              [&](long head) { attend_backward(*s, head / s->n_kv_heads, head % s->n_kv_heads); });
}
}
