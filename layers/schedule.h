#pragma once
// Learning rates as functions of the step.

#include <cstdint>
#include <vector>

namespace taper {

/// The rate of step s (from 0) of `steps`. Warm-up first: lr (s + 1) / warmup for s < warmup (Goyal et al.,
/// arXiv 1706.02677); then
///   constant: lr;
///   step:     lr gamma^(number of milestones <= s), as torch's MultiStepLR;
///   cosine:   lr (1 + cos(pi t)) / 2 with t = (s - warmup) / (steps - warmup), as torch's CosineAnnealingLR
///   to 0; linear:   lr (1 - t), as transformers' linear schedule.
struct Schedule {
  enum class Kind : uint8_t { constant, step, cosine, linear };
  Kind kind = Kind::constant;
  double lr = 0.1;
  int64_t steps = 1, warmup = 0;
  std::vector<int64_t> milestones = {};  ///< steps, ascending
  double gamma = 0.1;

  double rate(int64_t step) const;
};

}  // namespace taper
