#pragma once
// Permutations from counters.

#include <cstdint>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "runtime/error.h"
#include "runtime/philox.h"

namespace taper {

/// A permutation of 0 .. n-1 that depends on (n, key, epoch) alone: Fisher-Yates with Philox's draws.
inline void shuffle(std::vector<int64_t>& order, int64_t n, uint64_t key, int64_t epoch) {
  TAPER_CHECK(n <= std::numeric_limits<uint32_t>::max(), "{} samples are too many to shuffle", n);
  order.resize(n);
  std::iota(order.begin(), order.end(), int64_t{0});
  Draws draws(key, epoch, 0);
  for (int64_t i = n - 1; i > 0; --i) std::swap(order[i], order[draws.below(static_cast<uint32_t>(i + 1))]);
}

}  // namespace taper
