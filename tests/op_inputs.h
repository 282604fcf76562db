#pragma once
// Inputs for the op table, drawn by Philox from the case's name: the same on every machine.

#include <cstdint>
#include <string_view>
#include <vector>

#include "runtime/philox.h"

namespace taper::ops {

class Inputs {
 public:
  explicit Inputs(std::string_view case_name) : draws_(hash(case_name), 0, 0) {}
  std::vector<double> normal(int64_t count, double mean = 0, double deviation = 1);
  /// Either sign, magnitudes from 10^low to 10^high, uniform in the exponent.
  std::vector<double> magnitudes(int64_t count, double low, double high);
  /// Normal, with about every fourth exactly zero.
  std::vector<double> with_zeros(int64_t count);
  /// Normal, but at least 0.1 away from zero: for finite differences across a kink.
  std::vector<double> away_from_zero(int64_t count);
  std::vector<double> uniform(int64_t count, double low, double high);
  /// Whole numbers in [0, below).
  std::vector<double> integers(int64_t count, int64_t below);

 private:
  Draws draws_;
};

}  // namespace taper::ops
