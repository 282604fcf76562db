#include <algorithm>
#include <cmath>

#include "runtime/error.h"
#include "tests/op_table.h"

namespace taper::ops {

namespace {

struct Objective {
  double value, magnitude;  ///< the weighted sum of the outputs, and of their absolute values
};

Objective objective(const Case& forward, const Values& weights) {
  Values outputs = reference(forward);
  Objective result{0, 0};
  for (const auto& [name, weight] : weights) {
    const std::vector<double>& output = outputs.at(name);
    TAPER_CHECK(output.size() == weight.size(), "{} weights for {} values of {}", weight.size(),
                output.size(), name);
    for (size_t i = 0; i < weight.size(); ++i) {
      result.value += weight[i] * output[i];
      result.magnitude += std::abs(weight[i] * output[i]);
    }
  }
  return result;
}

}  // namespace

std::vector<std::string> check_gradient(const Case& forward, const Values& weights, const std::string& input,
                                        const std::vector<double>& gradient) {
  Case moved = forward;
  auto argument = std::find_if(moved.arguments.begin(), moved.arguments.end(),
                               [&](const Argument& a) { return a.name == input; });
  TAPER_CHECK(argument != moved.arguments.end() && argument->values.size() == gradient.size(),
              "{} derivatives of {} with respect to {}", gradient.size(), forward.name, input);
  std::vector<std::string> result;
  for (size_t i = 0; i < gradient.size(); ++i) {
    double x = argument->values[i], magnitude = 0;
    auto slope = [&](double step) {
      argument->values[i] = x + step;
      Objective above = objective(moved, weights);
      argument->values[i] = x - step;
      Objective below = objective(moved, weights);
      argument->values[i] = x;
      magnitude = std::max(above.magnitude, below.magnitude);
      return (above.value - below.value) / (2 * step);
    };
    // The error of a central difference is quadratic in the step: that of the half step is a third of the
    // distance of the two slopes. To it comes rounding: 64 roundings of the sum, over the step.
    double step = 0x1p-14 * std::max(1.0, std::abs(x));
    double coarse = slope(step), fine = slope(step / 2);
    double tolerance = std::abs(coarse - fine) + 64 * 0x1p-53 * magnitude / step;
    if (!(std::abs(gradient[i] - fine) <= tolerance))
      result.push_back(
          fmt::format("{}: the derivative by {}[{}] is {:.9g}, by differences {:.9g} within {:.3g}",
                      forward.name, input, i, gradient[i], fine, tolerance));
  }
  return result;
}

}  // namespace taper::ops
