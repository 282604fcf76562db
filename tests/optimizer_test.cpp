// Five steps of SGD and AdamW against torch.optim's (tests/golden/make_optimizer_golden.py).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "kernels/backend.h"
#include "runtime/tensor.h"

namespace taper {
namespace {

using Json = nlohmann::json;

Json golden() {
  std::ifstream file(TAPER_SOURCE_DIR "/tests/golden/optimizer.json");
  return Json::parse(file);
}

/// The parameters after the case's steps. The gradients go in four times too large, with a gradient_scale of
/// 1/4, which is exact.
template <typename T>
std::vector<T> run(Backend& backend, const Json& golden, const Json& c) {
  std::unique_ptr<Stream> stream = backend.make_stream(1);
  const DType type = dtype_of<T>();
  const auto start = golden["start"].get<std::vector<T>>();
  const auto size = static_cast<int64_t>(start.size());
  Tensor parameter = Tensor::from<T>(*stream, {size}, start);
  Tensor first = Tensor::zeros(*stream, type, {size}), second = Tensor::zeros(*stream, type, {size});
  const std::vector<Segment> segments{{0, size, c.value("weight_decay", 0.0)}};
  int64_t step = 0;
  for (const Json& each : golden["gradients"]) {
    auto values = each.get<std::vector<T>>();
    for (T& value : values) value *= 4;
    Tensor gradient = Tensor::from<T>(*stream, {size}, values);
    ++step;
    if (c["rule"] == "sgd") {
      const Sgd rule{
          .lr = c["lr"], .momentum = c.value("momentum", 0.0), .nesterov = c.value("nesterov", false)};
      backend.sgd(*stream, segments, type, rule, 0.25, gradient.data(), first.data(), parameter.data());
    } else {
      const auto betas = c.value("betas", std::vector<double>{0.9, 0.999});
      const AdamW rule{
          .lr = c["lr"], .beta1 = betas[0], .beta2 = betas[1], .eps = c.value("eps", 1e-8), .step = step};
      backend.adamw(*stream, segments, type, rule, 0.25, gradient.data(), first.data(), second.data(),
                    parameter.data());
    }
  }
  return parameter.host<T>(*stream);
}

std::string describe(const Json& c) {
  Json options = c;
  options.erase("f32");
  options.erase("f64");
  return options.dump();
}

TEST(Optimizer, ReferenceAgreesWithTorchInDouble) {
  const std::unique_ptr<Backend> backend = make_reference_backend();
  const Json all = golden();
  for (const Json& c : all["cases"]) {
    SCOPED_TRACE(describe(c));
    const auto result = run<double>(*backend, all, c);
    const auto expected = c["f64"].get<std::vector<double>>();
    // Five steps of some ten roundings each, of numbers up to 4.
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(result[i], expected[i], 50 * 4 * 0x1p-53) << i;
  }
}

TEST(Optimizer, CpuIsAsExactAsTorchInFloat) {
  const std::unique_ptr<Backend> backend = make_cpu_backend();
  const Json all = golden();
  for (const Json& c : all["cases"]) {
    SCOPED_TRACE(describe(c));
    const auto result = run<float>(*backend, all, c);
    const auto exact = c["f64"].get<std::vector<double>>(), torch = c["f32"].get<std::vector<double>>();
    double torch_error = 0;
    for (size_t i = 0; i < exact.size(); ++i)
      torch_error = std::max(torch_error, std::abs(torch[i] - exact[i]));
    for (size_t i = 0; i < exact.size(); ++i) {
      const double ulp = std::ldexp(1.0, std::ilogb(exact[i]) - 23);
      EXPECT_LE(std::abs(static_cast<double>(result[i]) - exact[i]), 2 * torch_error + 2 * ulp) << i;
    }
  }
}

}  // namespace
}  // namespace taper
