// The arithmetic of a scan without the scan: so many exp and multiply-adds in registers, nothing
// read or written. Compiled with the flags of the kernel, with the exp of the kernel.
#include <thread>
#include <vector>

#include "vector_math.h"

constexpr int CHAINS = 12;  // independent sums: more than latency times throughput of any machine
constexpr int EXPS = 4;     // independent exp, as many as the kernel has under way

// Keeps a value in a register and hides from the compiler what it is.
template <class T>
INLINE void opaque(T& value) {
#ifdef __x86_64__
  asm volatile("" : "+x"(value));
#else
  asm volatile("" : "+w"(value));
#endif
}

static void run_exps(long count) {
  Vec delta = broadcast(0.05f), rates[EXPS];
  for (int k = 0; k < EXPS; k++) rates[k] = broadcast(-1.5f * k);
  for (long i = 0; i < count; i += EXPS) {
    opaque(delta);
    UNROLL for (int k = 0; k < EXPS; k++) {
      Vec power = exp2<false>(delta * rates[k]);
      opaque(power);
    }
  }
}

static void run_fmas(long count) {
  Vec sums[CHAINS], factor = broadcast(0.999f), term = broadcast(0.1f);
  for (int k = 0; k < CHAINS; k++) sums[k] = broadcast(0.1f * k);
  opaque(factor);
  opaque(term);
  for (long i = 0; i < count; i += CHAINS)
    UNROLL for (int k = 0; k < CHAINS; k++) sums[k] = sums[k] * factor + term;
  for (int k = 0; k < CHAINS; k++) opaque(sums[k]);
}

// n_exps and n_fmas count single lanes, over all threads together.
extern "C" void run_limit(int64_t n_exps, int64_t n_fmas, int64_t n_threads) {
  const auto own = [=] {
    run_exps(n_exps / n_threads / LANES);
    run_fmas(n_fmas / n_threads / LANES);
  };
  std::vector<std::thread> helpers;
  for (int64_t i = 1; i < n_threads; i++) helpers.emplace_back(own);
  own();
  for (auto& helper : helpers) helper.join();
}
