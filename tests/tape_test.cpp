// Differentiation itself, on the reference backend in double: gradients against finite differences of the
// loss, what flows where, and when memory comes back.

#include "autograd/tape.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "autograd/ops.h"
#include "layers/weights.h"
#include "runtime/philox.h"

namespace taper {
namespace {

// Parameters with random values, a batch of random images, and somewhere to sum gradients.
class TapeTest : public testing::Test {
 protected:
  Parameter& parameter(const std::string& name, Shape shape, Role role) {
    return store_.add(name, std::move(shape), role);
  }
  Conv conv(const std::string& name, int64_t in, int64_t out, int64_t size, int64_t stride = 1) {
    return {.filter = &parameter(name, {out, size, size, in}, Role::filter),
            .stride = stride,
            .padding = size / 2};
  }
  BatchNorm norm(const std::string& name, int64_t channels) {
    return {.weight = &parameter(name + ".weight", {channels}, Role::norm_weight),
            .bias = &parameter(name + ".bias", {channels}, Role::norm_bias),
            .running_mean = &parameter(name + ".running_mean", {channels}, Role::running_mean),
            .running_variance = &parameter(name + ".running_var", {channels}, Role::running_variance)};
  }
  // Values in [-1, 1), those of norms in [0.5, 1.5).
  void allocate() {
    store_.allocate(stream_, DType::f64);
    for (Parameter& p : store_.all()) {
      std::vector<double> values = random(p.name, p.size);
      if (p.role == Role::norm_weight || p.role == Role::running_variance)
        for (double& v : values) v = 1 + v / 2;
      set_values(stream_, p, values);
    }
    clear();
  }
  void clear() {
    sums_ = {Tensor::zeros(stream_, DType::f64, {store_.value_size()}),
             Tensor::zeros(stream_, DType::f64, {store_.statistic_size()})};
  }
  std::vector<double> random(const std::string& name, int64_t size) {
    Draws draws(hash(name), 0, 0);
    std::vector<double> values(static_cast<size_t>(size));
    for (double& v : values) v = 2.0 * draws.uniform() - 1;
    return values;
  }
  Tensor tensor(const std::string& name, Shape shape) {
    return Tensor::from<double>(stream_, shape, random(name, elements(shape)));
  }
  std::vector<double> gradient(const Parameter& p) {
    return sums_.gradients.slice(p.offset, p.size).host<double>(stream_);
  }
  double value(const Tensor& scalar) { return scalar.host<double>(stream_)[0]; }
  int64_t in_use() { return stream_.allocator()->statistics().in_use; }

  // The gradients of f's sum of losses against central differences. With steps of 1e-5 in double the
  // formula's error is of the order 1e-10 times the third derivative, and rounding's 1e-16 / 1e-5.
  template <typename F>
  void expect_finite_differences(bool training, F f) {
    Tape tape(backend_, stream_, DType::f64, &sums_);
    tape.training = training;
    double loss = f(tape);
    tape.backward();
    auto loss_at = [&](Parameter& p, std::vector<double> values, size_t i, double step) {
      values[i] += step;
      set_values(stream_, p, values);
      ShardSums unused{Tensor::zeros(stream_, DType::f64, {store_.value_size()}), {}};
      Tape other(backend_, stream_, DType::f64, &unused);
      other.training = training;
      return f(other);
    };
    constexpr double kStep = 1e-5;
    for (Parameter& p : store_.all()) {
      if (p.is_statistic()) continue;
      std::vector<double> ours = gradient(p), values = host_values(stream_, p);
      for (size_t i = 0; i < values.size(); ++i) {
        double difference = loss_at(p, values, i, kStep) - loss_at(p, values, i, -kStep);
        EXPECT_NEAR(ours[i], difference / (2 * kStep), 1e-7 * (1 + std::abs(loss))) << p.name << " " << i;
      }
      set_values(stream_, p, values);
    }
  }

  std::unique_ptr<Backend> backend_owner_ = make_reference_backend();
  Backend& backend_ = *backend_owner_;
  HostStream stream_;
  ParameterStore store_;
  ShardSums sums_;
};

TEST_F(TapeTest, SeveralRootsThroughAResidualBlock) {
  Conv first = conv("first", 2, 3, 3), second = conv("second", 3, 3, 3), shortcut = conv("shortcut", 3, 3, 1);
  BatchNorm norm1 = norm("norm1", 3), norm2 = norm("norm2", 3), norm3 = norm("norm3", 3);
  Parameter &weight = parameter("fc.weight", {4, 3}, Role::matrix),
            &bias = parameter("fc.bias", {4}, Role::bias);
  allocate();
  Tensor labels = Tensor::from<int32_t>(stream_, {2}, std::vector<int32_t>{1, 3});
  for (bool training : {true, false}) {
    clear();
    SCOPED_TRACE(training);
    expect_finite_differences(training, [&](Tape& tape) {
      Var x = tape.constant(tensor("images", {2, 6, 5, 2}));
      Var a = conv_batch_norm(tape, x, first, norm1, nullptr, true);
      a = max_pool(tape, a, 3, 2, 1);
      Var b = conv_batch_norm(tape, a, shortcut, norm2, nullptr, false);
      Var c = batch_norm(tape, conv2d(tape, a, second), norm3, b, true);  // a is used twice
      double loss = value(squared_error(tape, c, tensor("target", c->value.shape())));
      Var logits = linear(tape, global_average_pool(tape, c), weight, &bias);
      loss += value(cross_entropy(tape, logits, labels, 0.1));
      return loss + value(kl_divergence(tape, tensor("teacher", {2, 4}), logits, 2));
    });
  }
}

TEST_F(TapeTest, BridgesAndSmoothActivations) {
  Conv first = conv("first", 2, 3, 3, 2);
  Parameter& lower = parameter("lower", {3, 5}, Role::matrix);
  Parameter& lift = parameter("lift", {5, 3}, Role::matrix);
  allocate();
  expect_finite_differences(true, [&](Tape& tape) {
    Var x = activate(tape, Activation::tanh, conv2d(tape, tape.constant(tensor("x", {2, 5, 4, 2})), first));
    Var h = activate(tape, Activation::gelu, x);
    double loss = value(imitation(tape, h, tensor("t", {2, 3, 2, 5}), lift, false));
    h = bridge(tape, h, lower, lift);
    return loss + value(squared_error(tape, add(tape, h, h), tensor("target", {2, 3, 2, 3})));
  });
}

TEST_F(TapeTest, TiedBridge) {
  Conv first = conv("first", 2, 2, 1);
  Parameter& lift = parameter("lift", {3, 2}, Role::matrix);
  lift.trainable = false;
  allocate();
  // Orthonormal columns (1/3, 2/3, 2/3) and (2/3, 1/3, -2/3).
  std::vector<double> u = {1, 2, 2, 1, 2, -2};
  for (double& v : u) v /= 3;
  set_values(stream_, lift, u);
  Tape tape(backend_, stream_, DType::f64, &sums_);
  Var h = conv2d(tape, tape.constant(tensor("x", {2, 2, 2, 2})), first);
  Tensor t = tensor("t", {2, 2, 2, 3});
  double loss = value(imitation(tape, h, t, lift, true));
  tape.backward();
  std::vector<double> tied = gradient(*first.filter);
  // The same by lifting, |h U^T - t|^2; but rows of 3 elements are samples there, and here 4 rows are one.
  clear();
  Tape lifted(backend_, stream_, DType::f64, &sums_);
  h = conv2d(lifted, lifted.constant(tensor("x", {2, 2, 2, 2})), first);
  double expected = value(squared_error(lifted, linear(lifted, h, lift, nullptr), t.view({8, 3})));
  lifted.backward();
  std::vector<double> by_lifting = gradient(*first.filter);
  for (double& v : by_lifting) v /= 4;
  EXPECT_NEAR(loss, expected / 4, 1e-14 * expected);
  EXPECT_THAT(tied, testing::Pointwise(testing::DoubleNear(1e-14), by_lifting));
  EXPECT_THAT(gradient(lift), testing::Each(0));
}

// add() hands one gradient to both of its inputs; what one of them gets besides must not reach the other.
TEST_F(TapeTest, ASharedGradientIsNotAddedToInPlace) {
  Conv left = conv("left", 2, 2, 1), right = conv("right", 2, 2, 1);
  allocate();
  expect_finite_differences(true, [&](Tape& tape) {
    Var x = tape.constant(tensor("x", {1, 2, 2, 2}));
    Var a = conv2d(tape, x, left), b = conv2d(tape, x, right);
    double loss = value(squared_error(tape, a, tensor("target", {1, 2, 2, 2})));
    return loss + value(squared_error(tape, add(tape, a, b), tensor("other", {1, 2, 2, 2})));
  });
}

TEST_F(TapeTest, NothingFlowsThroughAStoppedGradient) {
  Conv below = conv("below", 2, 2, 1), above = conv("above", 2, 2, 1);
  allocate();
  Tape tape(backend_, stream_, DType::f64, &sums_);
  Var x = conv2d(tape, tape.constant(tensor("x", {1, 2, 2, 2})), below);
  Var y = conv2d(tape, tape.constant(x->value), above);
  squared_error(tape, y, tensor("target", {1, 2, 2, 2}));
  tape.backward();
  EXPECT_THAT(gradient(*below.filter), testing::Each(0));
  EXPECT_THAT(gradient(*above.filter), testing::Each(testing::Ne(0)));
}

TEST_F(TapeTest, FrozenParametersGetNothingButLetGradientsThrough) {
  Conv below = conv("below", 2, 2, 1), above = conv("above", 2, 2, 1);
  BatchNorm between = norm("between", 2);
  Parameter &weight = parameter("fc.weight", {2, 2}, Role::matrix),
            &bias = parameter("fc.bias", {2}, Role::bias);
  allocate();
  auto pass = [&] {
    clear();
    Tape tape(backend_, stream_, DType::f64, &sums_);
    tape.training = true;
    Var x = conv_batch_norm(tape, tape.constant(tensor("x", {2, 2, 2, 2})), below, between, nullptr, true);
    Var y = linear(tape, global_average_pool(tape, conv2d(tape, x, above)), weight, &bias);
    squared_error(tape, y, tensor("target", {2, 2}));
    tape.backward();
  };
  pass();
  std::map<std::string, std::vector<double>> all;
  for (const Parameter& p : store_.all())
    if (!p.is_statistic()) all[p.name] = gradient(p);
  // Each one trained alone, and each one frozen alone.
  for (bool frozen : {false, true}) {
    for (Parameter& p : store_.all()) {
      if (p.is_statistic()) continue;
      for (Parameter& other : store_.all())
        other.trainable = !other.is_statistic() && (&other == &p) != frozen;
      pass();
      for (const Parameter& other : store_.all()) {
        if (other.is_statistic()) continue;
        SCOPED_TRACE(p.name + (frozen ? " frozen, " : " trained alone, ") + other.name);
        if (other.trainable)
          EXPECT_EQ(gradient(other), all[other.name]);
        else
          EXPECT_THAT(gradient(other), testing::Each(0));
      }
    }
  }
}

TEST_F(TapeTest, MemoryComesBackWhileWalking) {
  Conv layer = conv("layer", 4, 4, 3);
  BatchNorm after = norm("after", 4);
  allocate();
  auto pass = [&](int depth) {
    Tape tape(backend_, stream_, DType::f64, &sums_);
    tape.training = true;
    Var x = tape.constant(tensor("x", {2, 8, 8, 4}));
    for (int i = 0; i < depth; ++i) x = conv_batch_norm(tape, x, layer, after, i > 0 ? x : nullptr, true);
    squared_error(tape, x, tensor("target", {2, 8, 8, 4}));
    int64_t recorded = in_use();
    x = nullptr;
    stream_.allocator()->reset_peak();
    tape.backward();
    return recorded;
  };
  pass(1);  // makes the derived copies, which stay
  int64_t before = in_use(), activation = 2 * 8 * 8 * 4 * 8;
  int64_t recorded = pass(64);
  EXPECT_EQ(in_use(), before);
  // Recorded: the convolution's and the norm's output of each layer.
  EXPECT_GE(recorded - before, 64 * 2 * activation);
  // Nothing is kept until the end: the walk itself needs a few activations more than were recorded.
  EXPECT_LE(stream_.allocator()->statistics().peak - recorded, 6 * activation);
}

TEST_F(TapeTest, InferenceKeepsNothing) {
  Conv layer = conv("layer", 4, 4, 3);
  BatchNorm after = norm("after", 4);
  allocate();
  auto peak = [&](int depth) {
    stream_.allocator()->reset_peak();
    Tape tape(backend_, stream_, DType::f64);
    Var x = tape.constant(tensor("x", {2, 8, 8, 4}));
    for (int i = 0; i < depth; ++i) x = conv_batch_norm(tape, x, layer, after, x, true);
    tape.backward();  // of nothing
    return stream_.allocator()->statistics().peak;
  };
  peak(1);
  EXPECT_EQ(peak(2), peak(64));
}

TEST_F(TapeTest, DeepChainsDoNotOverflowTheStack) {
  Parameter& weight = parameter("weight", {1, 1}, Role::matrix);
  allocate();
  Tape tape(backend_, stream_, DType::f64, &sums_);
  constexpr int kDepth = 100'000;
  Var x = linear(tape, tape.constant(Tensor::from<double>(stream_, {1, 1}, std::vector<double>{3})), weight,
                 nullptr);
  Var one = tape.constant(Tensor::from<double>(stream_, {1, 1}, std::vector<double>{1}));
  for (int i = 0; i < kDepth; ++i) x = add(tape, x, one);
  double w = host_values(stream_, weight)[0];
  squared_error(tape, x, Tensor::zeros(stream_, DType::f64, {1, 1}));
  tape.backward();
  // d (3 w + depth)^2 / dw
  EXPECT_NEAR(gradient(weight)[0], 6 * (3 * w + kDepth), 1e-6);
  // A tape that is never walked is destroyed without recursion too.
  for (int i = 0; i < kDepth; ++i) x = add(tape, x, linear(tape, one, weight, nullptr));
}

TEST_F(TapeTest, FusedConvolutionAndNormEqualTheComposition) {
  Conv layer = conv("layer", 3, 4, 3, 2);
  BatchNorm after = norm("after", 4);
  Conv shortcut = conv("shortcut", 3, 4, 1, 2);
  allocate();
  for (bool training : {true, false}) {
    for (bool relu : {true, false}) {
      std::vector<double> values[2], gradients[2], statistics[2];
      for (int fused : {0, 1}) {
        clear();
        Tape tape(backend_, stream_, DType::f64, &sums_);
        tape.training = training;
        Var x = tape.constant(tensor("x", {2, 5, 7, 3})), residual = conv2d(tape, x, shortcut);
        Var y = fused ? conv_batch_norm(tape, x, layer, after, residual, relu)
                      : batch_norm(tape, conv2d(tape, x, layer), after, residual, relu);
        values[fused] = y->value.host<double>(stream_);
        squared_error(tape, y, tensor("target", y->value.shape()));
        tape.backward();
        gradients[fused] = sums_.gradients.host<double>(stream_);
        statistics[fused] = sums_.statistics.host<double>(stream_);
      }
      EXPECT_EQ(values[0], values[1]);
      EXPECT_EQ(gradients[0], gradients[1]);
      EXPECT_EQ(statistics[0], statistics[1]);
    }
  }
}

TEST_F(TapeTest, FoldedNormEqualsTheCompositionToRounding) {
  Conv layer = conv("layer", 3, 4, 3, 2);
  BatchNorm after = norm("after", 4);
  allocate();
  auto unfused_and_folded = [&] {
    Tape recording(backend_, stream_, DType::f64, &sums_), inference(backend_, stream_, DType::f64);
    Tensor x = tensor("x", {2, 5, 7, 3}), residual = tensor("residual", {2, 3, 4, 4});
    Var y =
        conv_batch_norm(recording, recording.constant(x), layer, after, recording.constant(residual), true);
    Var z =
        conv_batch_norm(inference, inference.constant(x), layer, after, inference.constant(residual), true);
    return std::pair(y->value.host<double>(stream_), z->value.host<double>(stream_));
  };
  auto [y, z] = unfused_and_folded();
  // 27 products of at most 1.5 * sqrt(2), each side rounded about 30 times.
  EXPECT_THAT(z, testing::Pointwise(testing::DoubleNear(27 * 2.2 * 30 * 0x1p-53), y));
  EXPECT_NE(y, z);  // else nothing was folded
  // New statistics make new copies.
  set_values(stream_, *after.running_mean, std::vector<double>{5, 6, 7, 8});
  auto [y2, z2] = unfused_and_folded();
  EXPECT_THAT(z2, testing::Pointwise(testing::DoubleNear(1e-12), y2));
  EXPECT_NE(y2, y);
}

}  // namespace
}  // namespace taper
