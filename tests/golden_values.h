#pragma once
// What the tests share that compare whole networks with PyTorch's stored numbers: the draws and digests of
// tests/golden/make_resnet_golden.py.

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "runtime/philox.h"
#include "runtime/tensor.h"

namespace taper {

enum Purpose : uint32_t { kValues, kSigns, kPlaces };

/// Words 0 .. count - 1 of what is called `name`.
inline std::vector<uint32_t> words(const std::string& name, int64_t count, Purpose purpose) {
  std::vector<uint32_t> result;
  for (uint64_t key = hash(name); std::ssize(result) < count;)
    for (uint32_t word : philox({static_cast<uint32_t>(result.size() / 4), purpose, 0, 0}, key))
      result.push_back(word);
  return result;
}

/// Values of accumulator type, on the host.
inline std::vector<double> host(Stream& stream, const Tensor& t) {
  if (t.dtype() == DType::f64) return t.host<double>(stream);
  std::vector<float> values = t.host<float>(stream);
  return {values.begin(), values.end()};
}

inline double norm(const std::vector<double>& values) {
  double sum = 0;
  for (double v : values) sum += v * v;
  return std::sqrt(sum);
}

/// |a - b|; NaN where the sizes differ, and a NaN anywhere makes it NaN, which no comparison lets pass.
inline double distance(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return std::nan("");
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}

/// |a - b| / |b|.
inline double relative(const std::vector<double>& a, const std::vector<double>& b) {
  return distance(a, b) / norm(b);
}

/// As digest() of the script: norm, 4 projections on random signs, 8 elements.
inline std::array<double, 13> digest(const std::string& name, const std::vector<double>& values) {
  std::array<double, 13> result{norm(values)};
  std::vector<uint32_t> signs = words(name, std::ssize(values), kSigns), places = words(name, 8, kPlaces);
  for (size_t i = 0; i < values.size(); ++i)
    for (size_t j = 0; j < 4; ++j) result[1 + j] += signs[i] >> j & 1 ? -values[i] : values[i];
  for (size_t j = 0; j < 8; ++j) result[5 + j] = values[uint64_t{places[j]} * values.size() >> 32];
  return result;
}

/// Two computations in double differ by the network's condition times 2^-53: far below this, while a wrong
/// formula is far above.
constexpr double kExact = 1e-10;

}  // namespace taper
