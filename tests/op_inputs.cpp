#include "tests/op_inputs.h"

#include <cmath>

namespace taper::ops {

namespace {

template <typename Draw>
std::vector<double> draw(int64_t count, Draw&& one) {
  std::vector<double> result(static_cast<size_t>(count));
  for (double& value : result) value = one();
  return result;
}

}  // namespace

std::vector<double> Inputs::normal(int64_t count, double mean, double deviation) {
  return draw(count, [&] { return mean + deviation * draws_.normal(); });
}

std::vector<double> Inputs::magnitudes(int64_t count, double low, double high) {
  return draw(count, [&] {
    double sign = draws_.below(2) == 0 ? -1 : 1;
    return sign * std::pow(10, low + (high - low) * draws_.uniform());
  });
}

std::vector<double> Inputs::with_zeros(int64_t count) {
  return draw(count, [&] {
    double value = draws_.normal();
    return draws_.below(4) == 0 ? 0 : value;
  });
}

std::vector<double> Inputs::away_from_zero(int64_t count) {
  return draw(count, [&] {
    double value = draws_.normal();
    return value + std::copysign(0.1, value);
  });
}

std::vector<double> Inputs::uniform(int64_t count, double low, double high) {
  return draw(count, [&] { return low + (high - low) * draws_.uniform(); });
}

std::vector<double> Inputs::integers(int64_t count, int64_t below) {
  return draw(count, [&] { return draws_.below(static_cast<uint32_t>(below)); });
}

}  // namespace taper::ops
