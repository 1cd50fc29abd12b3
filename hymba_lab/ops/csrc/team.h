// Threads: those of torch's own OpenMP runtime, which are awake between two products of matrices.
// Starting others would cost more than the small calls of decoding take, and torch's threads, which
// spin for a while after their work, would hold the cores that the others need.
#pragma once

#include <atomic>
#include <cstdint>

struct Team {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel
};

inline Team team{};

// Runs range(first, end) over n_threads parts of 0..count-1, multiples of `grain` but for the last.
// The threads that there are take part after part.
template <class Range>
static void share_out(int64_t n_threads, long count, long grain, Range range) {
  if (!team.parallel || n_threads < 2 || count <= grain) return range(0L, count);
  struct Job {
    long count, part;
    Range& range;
    std::atomic<long> next{0};
  };
  const long n_grains = (count + grain - 1) / grain;
  Job job{count, (n_grains + n_threads - 1) / n_threads * grain, range};
  auto body = [](void* given) {
    Job& job = *(Job*)given;
    for (long first; (first = job.next.fetch_add(job.part)) < job.count;)
      job.range(first, first + job.part < job.count ? first + job.part : job.count);
  };
  team.parallel(body, &job, (unsigned)n_threads, 0);
}
