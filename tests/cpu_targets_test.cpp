// The CPU's loops in every instruction set that they are compiled for and this machine has. The op table runs
// them in the best one only.

#include "kernels/cpu/targets.h"
// After targets.h, which chooses the sets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hwy/highway.h>

#include <cmath>
#include <limits>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "runtime/philox.h"
#include "runtime/tensor.h"

namespace taper {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
// More than a vector of any set, and a remainder.
constexpr int64_t kCount = 16 * 5 + 3;

std::vector<float> normal(int64_t count, float scale) {
  Draws draws(hash("cpu_targets"), 0, 0);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = scale * static_cast<float>(draws.normal());
  return values;
}

/// Small whole numbers: their products and sums are exact in any order.
std::vector<float> whole(int64_t count, uint64_t seed) {
  Draws draws(seed, 0, 0);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(draws.below(9)) - 4;
  return values;
}

class CpuTargets : public ::testing::TestWithParam<int64_t> {
 protected:
  CpuTargets() { hwy::SetSupportedTargetsForTest(GetParam()); }
  ~CpuTargets() override { hwy::SetSupportedTargetsForTest(0); }

  Tensor tensor(const std::vector<float>& values) {
    return Tensor::from<float>(*stream_, {static_cast<int64_t>(values.size())}, values);
  }
  std::vector<float> activate(Activation f, const std::vector<float>& x) {
    Tensor in = tensor(x), out(*stream_, DType::f32, {in.size()});
    backend_->activate(*stream_, f, in.size(), DType::f32, in.data(), out.data());
    return out.host<float>(*stream_);
  }
  /// `result` within `ulps` of f(x) computed in double.
  template <typename F>
  void expect_near(const std::vector<float>& x, const std::vector<float>& result, double ulps, F f) {
    for (size_t i = 0; i < x.size(); ++i) {
      const double exact = f(static_cast<double>(x[i]));
      EXPECT_NEAR(result[i], exact, ulps * std::ldexp(1.0, std::ilogb(exact) - 23)) << x[i];
    }
  }

  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  std::unique_ptr<Stream> stream_ = backend_->make_stream(1);
};

TEST_P(CpuTargets, RoundsToBf16AsTheScalarDoes) {
  std::vector<float> x = normal(kCount, 1e3F);
  const float odd[] = {0.0F,      -0.0F,     kInfinity, -kInfinity, kNaN,    -kNaN,   0x1.01p0F,
                       0x1.03p0F, 0x1.FFp0F, 0x1.FEp7F, 1e-40F,     -1e-45F, 3.4e38F, -0x1.FFp127F};
  std::copy(std::begin(odd), std::end(odd), x.end() - std::ssize(odd));
  Tensor from = tensor(x), to(*stream_, DType::bf16, {kCount}), back(*stream_, DType::f32, {kCount});
  backend_->cast(*stream_, kCount, DType::f32, from.data(), DType::bf16, to.data());
  backend_->cast(*stream_, kCount, DType::bf16, to.data(), DType::f32, back.data());
  for (int64_t i = 0; i < kCount; ++i) {
    const bf16 expected(x[static_cast<size_t>(i)]);
    EXPECT_EQ(to.as<bf16>()[i].bits, expected.bits) << x[static_cast<size_t>(i)];
    EXPECT_EQ(std::bit_cast<uint32_t>(back.as<float>()[i]), uint32_t{expected.bits} << 16);
  }
}

TEST_P(CpuTargets, DropsOutWhatPhiloxSays) {
  constexpr int64_t kRows = 3, kFeatures = 1024 + 21;  // more than one block of words
  constexpr double kProbability = 0.3;
  const std::vector<int64_t> ids{7, int64_t{5} << 33, -1};
  Tensor row_ids = Tensor::from<int64_t>(*stream_, {kRows}, ids);
  Tensor x = tensor(std::vector<float>(kRows * kFeatures, 1.0F));
  backend_->dropout(*stream_, kRows, kFeatures, DType::f32, kProbability, 99, row_ids.as<int64_t>(), x.data(),
                    x.data());
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t f = 0; f < kFeatures; ++f) {
      const auto id = static_cast<uint64_t>(ids[static_cast<size_t>(r)]);
      const auto words = philox(
          {static_cast<uint32_t>(f / 4), static_cast<uint32_t>(id), static_cast<uint32_t>(id >> 32), 0}, 99);
      const bool kept = uniform(words[static_cast<size_t>(f % 4)]) >= kProbability;
      ASSERT_EQ(x.as<float>()[r * kFeatures + f], kept ? static_cast<float>(1 / (1 - kProbability)) : 0.0F)
          << r << ", " << f;
    }
}

TEST_P(CpuTargets, SumsWholeNumbersExactly) {
  const std::vector<float> a = whole(5000, 1), b = whole(5000, 2);
  double squares = 0, differences = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    squares += a[i] * a[i];
    differences += (a[i] - b[i]) * (a[i] - b[i]);
  }
  Tensor x = tensor(a), y = tensor(b), loss(*stream_, DType::f32, {}), dx(*stream_, DType::f32, {5000});
  backend_->squared_error(*stream_, 5000, DType::f32, x.data(), y.data(), 0.25, loss.data(), dx.data());
  EXPECT_EQ(loss.as<float>()[0], static_cast<float>(0.25 * differences));
  for (size_t i = 0; i < a.size(); ++i) ASSERT_EQ(dx.as<float>()[i], 0.5F * (a[i] - b[i])) << i;
  const std::vector<Segment> segments{{0, 5000}};
  double result = 0;
  backend_->sum_of_squares(*stream_, segments, DType::f32, x.data(), &result);
  EXPECT_EQ(result, squares);
}

TEST_P(CpuTargets, ActivationsAreWithinAFewUlp) {
  const std::vector<float> x = normal(1000, 2);
  expect_near(x, activate(Activation::tanh, x), 5, [](double v) { return std::tanh(v); });
  // Beside the fit's few ulp, the rounding of x^2 / 2 in the exponent: 16 / 2 ulp at |x| = 5.7, the largest.
  expect_near(x, activate(Activation::gelu, x), 16,
              [](double v) { return v * 0.5 * std::erfc(-v / std::numbers::sqrt2); });
  // Likewise 2u, up to 26 in magnitude, as an exponent.
  expect_near(x, activate(Activation::gelu_tanh, x), 32, [](double v) {
    return v / (1 + std::exp(-2 * std::sqrt(2 / std::numbers::pi) * (v + 0.044715 * v * v * v)));
  });
}

TEST_P(CpuTargets, ActivationsKeepNaNAndKnowTheirLimits) {
  for (Activation f :
       {Activation::none, Activation::relu, Activation::tanh, Activation::gelu, Activation::gelu_tanh}) {
    const auto result = activate(f, {kNaN, kInfinity, 1e30F, -1e30F});
    EXPECT_TRUE(std::isnan(result[0]));
    EXPECT_EQ(result[1], f == Activation::tanh ? 1 : kInfinity);
    EXPECT_EQ(result[2], f == Activation::tanh ? 1 : 1e30F);
    EXPECT_EQ(result[3], f == Activation::tanh ? -1 : f == Activation::none ? -1e30F : 0);
  }
}

TEST_P(CpuTargets, SoftmaxOfEqualLogitsIsUniform) {
  Tensor x = tensor(std::vector<float>(kCount, 1e4F)), y(*stream_, DType::f32, {kCount});
  backend_->softmax(*stream_, 1, kCount, DType::f32, false, x.data(), y.data());
  for (int64_t i = 0; i < kCount; ++i) EXPECT_EQ(y.as<float>()[i], static_cast<float>(1.0 / kCount));
}

TEST_P(CpuTargets, AttentionToEqualKeysAveragesTheValues) {
  // Queries of zero: every key scores 0. Values are whole and the keys a power of two, so the mean is exact.
  constexpr int64_t kTokens = 256, kHeads = 2, kSize = 20, kModel = kHeads * kSize;
  std::vector<float> qkv = whole(kTokens * 3 * kModel, 3), mean(kModel);
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t i = 0; i < kModel; ++i) {
      const auto at = static_cast<size_t>(t * 3 * kModel + i);
      qkv[at] = 0;
      mean[static_cast<size_t>(i)] += qkv[at + 2 * kModel] / kTokens;
    }
  const std::vector<int32_t> offsets{0, kTokens};
  Tensor in = tensor(qkv), out(*stream_, DType::f32, {kTokens * kModel}),
         lse(*stream_, DType::f32, {kTokens * kHeads});
  backend_->attention_forward(
      *stream_,
      {.sequences = 1, .tokens = kTokens, .heads = kHeads, .head_size = kSize, .offsets = offsets.data()},
      DType::f32, in.data(), out.data(), lse.data());
  for (int64_t i = 0; i < out.size(); ++i)
    ASSERT_EQ(out.as<float>()[i], mean[static_cast<size_t>(i % kModel)]) << i;
  for (int64_t i = 0; i < lse.size(); ++i) EXPECT_FLOAT_EQ(lse.as<float>()[i], std::log(256.0F));
}

INSTANTIATE_TEST_SUITE_P(All, CpuTargets, ::testing::ValuesIn(hwy::SupportedAndGeneratedTargets()),
                         [](const auto& info) {
                           const std::string name = hwy::TargetName(info.param);
                           return name == "?" ? std::to_string(info.param) : name;
                         });

}  // namespace
}  // namespace taper
