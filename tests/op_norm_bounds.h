#pragma once
// Error bounds that batch and layer normalisation share.

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace taper::ops {

inline size_t at(int64_t i) { return static_cast<size_t>(i); }

/// How far mean and reciprocal deviation of `count` numbers may be off, with sums about a pivot: one of the
/// numbers. `perturbation` is the mean error of a number itself.
struct StatisticsBound {
  double mean, rstd, variance;
};
template <typename Value>
StatisticsBound statistics_bound(int64_t count, double mean, double rstd, double unit, double perturbation,
                                 Value&& value) {
  double spread = 0, variance = 0;
  for (int64_t i = 0; i < count; ++i) {
    double distance = std::abs(value(i) - mean);
    spread = std::max(spread, distance);
    variance += distance * distance / static_cast<double>(count);
  }
  auto terms = static_cast<double>(count + 4);
  StatisticsBound bound;
  // No number is further than twice the spread from the pivot.
  bound.mean = unit * (std::abs(mean) + terms * 2 * spread) + perturbation;
  bound.variance = unit * terms * (variance + 4 * spread * spread) + bound.mean * bound.mean +
                   2 * perturbation * std::sqrt(variance);
  bound.rstd = 0.5 * std::pow(rstd, 3) * bound.variance + 4 * unit * rstd;
  return bound;
}

/// The error of gamma (x - mean) rstd + beta, also when computed as x (gamma rstd) + (beta - mean gamma
/// rstd).
inline double normalised_bound(double x, double mean, double rstd, double gamma, double beta, double unit,
                               const StatisticsBound& statistics) {
  return std::abs(gamma) * (rstd * statistics.mean + std::abs(x - mean) * statistics.rstd) +
         4 * unit * (std::abs(gamma) * rstd * (std::abs(x) + std::abs(mean)) + std::abs(beta));
}

}  // namespace taper::ops
