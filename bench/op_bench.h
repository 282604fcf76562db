#pragma once
// How an op is timed: on one single-threaded stream of a backend, the CPU's unless a program chooses another;
// checked before it is timed; on copies of its arguments that together exceed the cache, taken in turn.
// Counters: FLOP/s, and bytes/s where every argument counts once.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "runtime/tensor.h"

namespace taper::bench {

struct Device {
  explicit Device(std::unique_ptr<Backend> with)
      : backend(std::move(with)), stream(backend->make_stream(1)) {}
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Stream> stream;
};
/// Where ops run; a program may put another in its place.
inline std::unique_ptr<Device>& the_device() {
  static auto current = std::make_unique<Device>(make_cpu_backend());
  return current;
}
inline Device& device() { return *the_device(); }

/// The arguments of one call. A filter's place holds its packed form, made by the op's `prepare`.
using Arguments = std::vector<Tensor>;

struct Op {
  std::string name;  ///< op/shape/type
  std::vector<std::pair<DType, Shape>> arguments;
  std::function<void(Arguments&)> run;
  /// What `run` wrote against values computed naively: the largest error as a multiple of what is allowed.
  /// Its arguments are the host's.
  std::function<double(const Arguments&)> error;
  double flops = 0;
  std::function<void(Arguments&)> prepare = nullptr;
  int64_t bytes = 0;  ///< read and written by a call, where that is not every argument once
};

/// Element i as a double.
inline double at(const Tensor& tensor, int64_t i) {
  if (tensor.dtype() == DType::f32) return static_cast<double>(tensor.as<float>()[i]);
  if (tensor.dtype() == DType::bf16) return static_cast<double>(static_cast<float>(tensor.as<bf16>()[i]));
  return tensor.as<double>()[i];
}

inline Stream& host() {
  static HostStream stream;
  return stream;
}
inline Tensor on_device(const Tensor& of_host) {
  Tensor result(*device().stream, of_host.dtype(), of_host.shape());
  device().stream->upload(result.data(), of_host.data(), of_host.bytes());
  return result;
}
inline Tensor on_host(const Tensor& of_device) {
  Tensor result(host(), of_device.dtype(), of_device.shape());
  device().stream->download(result.data(), of_device.data(), of_device.bytes());
  return result;
}

/// A tensor of the host, of numbers uniform in [-1, 1]; integers are 0 .. 9. f32 has numbers of bf16, whose
/// products are exact in every precision.
inline Tensor random_values(DType type, const Shape& shape, uint32_t seed) {
  Tensor result(host(), type, shape);
  uint32_t word = seed;
  for (int64_t i = 0; i < result.size(); ++i) {
    word = word * 1664525 + 1013904223;
    float value = static_cast<float>(word >> 8) * 0x1p-23f - 1;
    if (type == DType::f32) result.as<float>()[i] = static_cast<float>(bf16(value));
    if (type == DType::bf16) result.as<bf16>()[i] = bf16(value);
    if (type == DType::f64) result.as<double>()[i] = static_cast<double>(value);
    if (type == DType::i32) result.as<int32_t>()[i] = static_cast<int32_t>(word >> 16) % 10;
    if (type == DType::u8) result.as<uint8_t>()[i] = 0;
  }
  return result;
}
inline Tensor random_tensor(DType type, const Shape& shape, uint32_t seed) {
  return on_device(random_values(type, shape, seed));
}

/// |got - want| as a multiple of what sums of `terms` numbers of size 1, in f32 and rounded to `type`, may be
/// off.
inline double relative_error(double got, double want, double terms, DType type) {
  double unit = type == DType::bf16 ? 0x1p-8 : 0x1p-23;
  return std::abs(got - want) / (unit * (1 + std::abs(want)) + 0x1p-23 * terms);
}

/// The largest of error(i) over eight elements spread over [0, count); NaN counts as infinite.
template <typename F>
double worst(int64_t count, F error) {
  double result = 0;
  for (int64_t n = 0; n < 8; ++n) {
    double e = error((n * 2 + 1) * count / 16);
    if (!(e <= result)) result = std::isnan(e) ? HUGE_VAL : e;
  }
  return result;
}

inline Arguments random_arguments(const Op& op) {
  Arguments result;
  for (const auto& [type, shape] : op.arguments)
    result.push_back(random_tensor(type, shape, static_cast<uint32_t>(result.size() + 1)));
  if (op.prepare) op.prepare(result);
  return result;
}

/// What is wrong with what `op` wrote to `arguments`; empty where nothing is.
inline std::string fault(const Op& op, const Arguments& arguments) {
  Arguments of_host;
  for (const Tensor& tensor : arguments) of_host.push_back(on_host(tensor));
  const double error = op.error(of_host);
  if (error <= 1) return {};
  return fmt::format("{} is wrong: its error is {:.3g} times what is allowed; there is nothing to time",
                     op.name, error);
}

/// What `op` wrote to `arguments` is right, or the program ends.
inline void check(const Op& op, const Arguments& arguments) {
  if (const std::string wrong = fault(op, arguments); !wrong.empty()) {
    fmt::print(stderr, "{}\n", wrong);
    std::exit(1);  // SkipWithError would end with 0
  }
}

inline int64_t bytes_of(const Arguments& arguments) {
  int64_t bytes = 0;
  for (const Tensor& tensor : arguments) bytes += tensor.bytes();
  return bytes;
}

/// Arguments for one call after the other, `most` at most, that together exceed `cache` bytes.
inline std::vector<Arguments> copies_past(int64_t cache, const Op& op, int64_t most) {
  std::vector<Arguments> copies = {random_arguments(op)};
  const int64_t count = std::min(1 + cache / bytes_of(copies[0]), most);
  while (std::ssize(copies) < count) {
    Arguments copy;
    for (const Tensor& tensor : copies[0]) {
      copy.emplace_back(*device().stream, tensor.dtype(), tensor.shape());
      device().stream->copy(copy.back().data(), tensor.data(), tensor.bytes());
    }
    copies.push_back(std::move(copy));
  }
  return copies;
}

inline void time_op(benchmark::State& state, const Op& op) {
  constexpr int64_t kPastTheCache = int64_t{96} << 20;
  // No more copies than calls: the first rounds, which find how many calls are worth timing, have few.
  std::vector<Arguments> copies = copies_past(kPastTheCache, op, std::min<int64_t>(64, state.max_iterations));
  op.run(copies[0]);
  check(op, copies[0]);
  size_t next = 0;
  for (auto _ : state) {
    op.run(copies[next]);
    next = (next + 1) % copies.size();
  }
  auto rate = [&](double each) {
    return benchmark::Counter(each, benchmark::Counter::kIsIterationInvariantRate,
                              benchmark::Counter::OneK::kIs1000);
  };
  if (op.flops > 0) state.counters["FLOP/s"] = rate(op.flops);
  state.counters["bytes/s"] = rate(static_cast<double>(op.bytes > 0 ? op.bytes : bytes_of(copies[0])));
}

inline void add(Op op) {
  std::string name = op.name;
  benchmark::RegisterBenchmark(name.c_str(), [op = std::move(op)](benchmark::State& state) {
    time_op(state, op);
  })->Unit(benchmark::kMicrosecond);
}

}  // namespace taper::bench
