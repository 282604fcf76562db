// The ops of bridges and imitation, in double on the reference backend: values against loops, gradients
// against finite differences.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "tests/network_values.h"

namespace taper {
namespace {

// A 1x1 convolution 2 -> 3, and a bridge from 3 to 5 channels, on two images of 2 x 2.
class Ops : public testing::Test {
 protected:
  static constexpr int64_t kThin = 3, kWide = 5, kPixels = 4, kImages = 2, kRows = kPixels * kImages;

  void SetUp() override {
    store_.allocate(stream_, DType::f64);
    randomize(stream_, store_);
  }
  // Columns made orthonormal by Gram and Schmidt.
  void make_orthonormal() {
    std::vector<double> u = host_values(stream_, lift_);
    auto at = [&](int64_t i, int64_t j) -> double& { return u[static_cast<size_t>(i * kThin + j)]; };
    for (int64_t j = 0; j < kThin; ++j)
      for (int64_t k = 0; k <= j; ++k) {
        double dot = 0;
        for (int64_t i = 0; i < kWide; ++i) dot += at(i, j) * at(i, k);
        for (int64_t i = 0; i < kWide; ++i)
          at(i, j) = k < j ? at(i, j) - dot * at(i, k) : at(i, j) / std::sqrt(dot);
      }
    set_values(stream_, lift_, u);
  }
  Tensor tensor(const char* name, int64_t channels) {
    return Tensor::from<double>(stream_, {kImages, 2, 2, channels}, normals(kRows * channels, name));
  }
  Var thin(Tape& tape) { return conv2d(tape, tape.constant(tensor("x", 2)), {.filter = &filter_}); }

  // The gradient of `loss` with respect to every parameter against central differences. Losses are
  // polynomials of degree 4 at most with values and coefficients of some tens: steps of 1e-4 leave 1e-8 of
  // each, and rounding 1e-11.
  void check(const std::function<double(Tape&)>& loss) {
    ShardSums sums{Tensor::zeros(stream_, DType::f64, {store_.value_size()}), {}};
    Tape tape(*backend_, stream_, DType::f64, &sums);
    loss(tape);
    tape.backward();
    std::vector<double> gradients = sums.gradients.host<double>(stream_);
    for (Parameter& p : store_.all()) {
      std::vector<double> values = host_values(stream_, p);
      for (size_t i = 0; i < values.size(); ++i) {
        double kept = values[i], side[2];
        for (int s = 0; s < 2; ++s) {
          values[i] = kept + (s == 0 ? -1e-4 : 1e-4);
          set_values(stream_, p, values);
          Tape inference(*backend_, stream_, DType::f64);
          side[s] = loss(inference);
        }
        values[i] = kept;
        set_values(stream_, p, values);
        double expected = p.trainable ? (side[1] - side[0]) / 2e-4 : 0;
        double got = gradients[static_cast<size_t>(p.offset) + i];
        EXPECT_NEAR(got, expected, 1e-6 * std::max(1.0, std::abs(expected))) << p.name << "[" << i << "]";
        EXPECT_EQ(got != 0, p.trainable) << p.name << "[" << i << "]";
      }
    }
  }
  double value(const Tensor& loss) { return loss.host<double>(stream_)[0]; }

  std::unique_ptr<Backend> backend_ = make_reference_backend();
  HostStream stream_;
  ParameterStore store_;
  Parameter& filter_ = store_.add("filter", {kThin, 1, 1, 2}, taper::Role::filter);
  Parameter& lower_ = store_.add("lower", {kThin, kWide}, taper::Role::matrix);
  Parameter& lift_ = store_.add("lift", {kWide, kThin}, taper::Role::matrix);
};

TEST_F(Ops, BridgeAppliesLiftThenLower) {
  Tape tape(*backend_, stream_, DType::f64);
  Var x = thin(tape);
  auto in = x->value.host<double>(stream_), low = host_values(stream_, lower_),
       up = host_values(stream_, lift_);
  auto out = bridge(tape, x, lower_, lift_)->value.host<double>(stream_);
  for (size_t r = 0; r < kRows; ++r)
    for (size_t i = 0; i < kThin; ++i) {
      double expected = 0;
      for (size_t w = 0; w < kWide; ++w)
        for (size_t j = 0; j < kThin; ++j)
          expected += low[i * kWide + w] * up[w * kThin + j] * in[r * kThin + j];
      EXPECT_NEAR(out[r * kThin + i], expected, 1e-13);
    }
}

TEST_F(Ops, BridgeDifferentiates) {
  check([&](Tape& tape) {
    return value(squared_error(tape, bridge(tape, thin(tape), lower_, lift_), tensor("t", 3)));
  });
  lift_.trainable = false;
  check([&](Tape& tape) {
    return value(squared_error(tape, bridge(tape, thin(tape), lower_, lift_), tensor("t", 3)));
  });
}

TEST_F(Ops, FreeImitationDifferentiates) {
  lower_.trainable = false;
  check([&](Tape& tape) { return value(imitation(tape, thin(tape), tensor("t", kWide), lift_, false)); });
}

TEST_F(Ops, SeveralLossesDifferentiateTogether) {
  check([&](Tape& tape) {
    Var x = thin(tape);
    double first = value(imitation(tape, x, tensor("t", kWide), lift_, false));
    return first + value(squared_error(tape, bridge(tape, x, lower_, lift_), tensor("u", 3)));
  });
}

TEST_F(Ops, TiedImitationDifferentiates) {
  make_orthonormal();
  lift_.trainable = lower_.trainable = false;
  check([&](Tape& tape) { return value(imitation(tape, thin(tape), tensor("t", kWide), lift_, true)); });
}

TEST_F(Ops, ImitationIsTheErrorOfTheLiftedOutput) {
  for (bool tied : {false, true}) {
    if (tied) make_orthonormal();
    Tape tape(*backend_, stream_, DType::f64);
    Var h = thin(tape);
    auto in = h->value.host<double>(stream_), u = host_values(stream_, lift_),
         t = normals(kRows * kWide, "t");
    double expected = 0;
    for (size_t r = 0; r < kRows; ++r)
      for (size_t w = 0; w < kWide; ++w) {
        double lifted = 0;
        for (size_t j = 0; j < kThin; ++j) lifted += in[r * kThin + j] * u[w * kThin + j];
        expected += std::pow(lifted - t[r * kWide + w], 2);
      }
    // Summed over samples, the mean over each.
    EXPECT_NEAR(value(imitation(tape, h, tensor("t", kWide), lift_, tied)), expected / (kPixels * kWide),
                1e-12);
  }
}

TEST_F(Ops, SquaredErrorIsTheSumOfTheSamplesMeans) {
  Tape tape(*backend_, stream_, DType::f64);
  auto a = normals(kRows * kThin, "a"), b = normals(kRows * kThin, "b");
  double expected = 0;
  for (size_t i = 0; i < a.size(); ++i) expected += std::pow(a[i] - b[i], 2) / (kPixels * kThin);
  EXPECT_NEAR(value(squared_error(tape, tape.constant(tensor("a", kThin)), tensor("b", kThin))), expected,
              1e-13);
}

}  // namespace
}  // namespace taper
