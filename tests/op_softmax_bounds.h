#pragma once
// Error bounds of a softmax of one row, which the losses share.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace taper::ops {

/// Of x / temperature, for a naive implementation with this unit roundoff: each exp carries the rounding of
/// its argument and two ulp of its own, the sum one rounding for each term.
class SoftmaxRow {
 public:
  SoftmaxRow(const double* x, int64_t columns, double temperature, double unit) : log_p_(x, x + columns) {
    double division = temperature == 1 ? 0 : unit;
    double largest = *std::max_element(x, x + columns) / temperature, sum = 0;
    for (double& value : log_p_) {
      value /= temperature;
      double distance = std::abs(value - largest);
      error_.push_back(unit * (distance + 4) + division * (std::abs(value) + std::abs(largest)));
      if (std::isinf(value)) error_.back() = 0;  // exp(-inf) is 0
      value -= largest;
      sum += std::exp(value);
    }
    double sum_error = unit * static_cast<double>(columns);
    for (size_t i = 0; i < error_.size(); ++i) sum_error += std::exp(log_p_[i]) / sum * error_[i];
    for (size_t i = 0; i < error_.size(); ++i) {
      log_p_[i] -= std::log(sum);
      error_[i] += sum_error + unit * (std::log(sum) + std::min(std::abs(log_p_[i]), kLargest) + 6);
    }
  }
  double log_p(int64_t column) const { return log_p_[static_cast<size_t>(column)]; }
  double p(int64_t column) const { return std::exp(log_p(column)); }
  /// Of the logarithm; hence the relative error of the probability.
  double log_p_error(int64_t column) const { return error_[static_cast<size_t>(column)]; }

 private:
  static constexpr double kLargest = 1e300;  // 0 times it is 0

  std::vector<double> log_p_, error_;
};

}  // namespace taper::ops
