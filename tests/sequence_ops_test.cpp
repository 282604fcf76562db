// The ops of language models on the reference backend in double: gradients against finite differences of the
// loss, values against compositions written out here, and what dropout and packing may depend on.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "autograd/ops.h"
#include "layers/weights.h"
#include "runtime/philox.h"

namespace taper {
namespace {

class SequenceOps : public testing::Test {
 protected:
  Parameter& parameter(const std::string& name, Shape shape, Role role = Role::matrix) {
    return store_.add(name, std::move(shape), role);
  }
  Dense layer(const std::vector<std::string>& names, int64_t in, int64_t out) {
    Dense result;
    for (const std::string& name : names) {
      result.weights.push_back(&parameter(name + ".weight", {out, in}));
      result.biases.push_back(&parameter(name + ".bias", {out}, Role::bias));
    }
    return result;
  }
  LayerNorm norm(const std::string& name, int64_t features) {
    return {&parameter(name + ".weight", {features}, Role::norm_weight),
            &parameter(name + ".bias", {features}, Role::norm_bias), 1e-5};
  }
  // Values in [-1, 1), those of norms' weights in [0.5, 1.5).
  void allocate() {
    store_.allocate(stream_, DType::f64);
    for (Parameter& p : store_.all()) {
      std::vector<double> values = random(p.name, p.size);
      if (p.role == Role::norm_weight)
        for (double& v : values) v = 1 + v / 2;
      set_values(stream_, p, values);
    }
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
  template <typename T>
  Tensor ids(const std::vector<T>& values) {
    return Tensor::from<T>(stream_, {std::ssize(values)}, values);
  }
  // Sequences of these samples and lengths, in this order.
  Sequences pack(const std::vector<int64_t>& samples, const std::vector<int32_t>& lengths) {
    std::vector<int32_t> offsets = {0};
    std::vector<int64_t> tokens;
    for (size_t i = 0; i < samples.size(); ++i) {
      offsets.push_back(offsets.back() + lengths[i]);
      for (int32_t t = 0; t < lengths[i]; ++t) tokens.push_back(samples[i] << 32 | t);
    }
    return {.offsets = ids(offsets),
            .sample_ids = ids(samples),
            .token_ids = ids(tokens),
            .masked = {},
            .key = 7};
  }
  std::vector<double> gradient(const Parameter& p) {
    return sums_.gradients.slice(p.offset, p.size).host<double>(stream_);
  }
  double loss(Tape& tape, const Var& y) {
    return squared_error(tape, y, tensor("target", y->value.shape())).host<double>(stream_)[0];
  }

  // The gradients of f's loss against central differences. With steps of 1e-5 in double the formula's error
  // is of the order 1e-10 times the third derivative, and rounding's 1e-16 / 1e-5.
  template <typename F>
  void expect_finite_differences(F f) {
    sums_ = {Tensor::zeros(stream_, DType::f64, {store_.value_size()}), {}};
    Tape tape(backend_, stream_, DType::f64, &sums_);
    tape.training = true;
    double at = f(tape);
    tape.backward();
    auto loss_at = [&](Parameter& p, std::vector<double> values, size_t i, double step) {
      values[i] += step;
      set_values(stream_, p, values);
      Tape other(backend_, stream_, DType::f64);
      other.training = true;
      return f(other);
    };
    constexpr double kStep = 1e-5;
    for (Parameter& p : store_.all()) {
      std::vector<double> ours = gradient(p), values = host_values(stream_, p);
      for (size_t i = 0; i < values.size(); ++i) {
        double difference = loss_at(p, values, i, kStep) - loss_at(p, values, i, -kStep);
        EXPECT_NEAR(ours[i], difference / (2 * kStep), 1e-7 * (1 + std::abs(at))) << p.name << " " << i;
      }
      EXPECT_THAT(ours, testing::Contains(testing::Ne(0))) << p.name;
      set_values(stream_, p, values);
    }
  }

  std::unique_ptr<Backend> backend_owner_ = make_reference_backend();
  Backend& backend_ = *backend_owner_;
  HostStream stream_;
  ParameterStore store_;
  ShardSums sums_;
};

TEST_F(SequenceOps, AnEncoderLayerOfEverything) {
  Parameter &words = parameter("words", {5, 6}), &positions = parameter("positions", {3, 6});
  LayerNorm first = norm("first", 6), second = norm("second", 6);
  Dense qkv = layer({"query", "key", "value"}, 6, 4), output = layer({"output"}, 4, 6);
  Parameter& bias = parameter("decoder.bias", {5}, Role::bias);
  allocate();
  Sequences sequences = pack({4, 9}, {2, 3});
  Tensor labels = ids<int32_t>({2, 0, 4});
  expect_finite_differences([&](Tape& tape) {
    Var x = embedding(tape, ids<int32_t>({1, 4, 0, 1, 3}), words);
    x = layer_norm(tape, x, embedding(tape, ids<int32_t>({0, 1, 0, 1, 2}), positions), first);
    x = dropout(tape, x, 0.25, 11, sequences.token_ids);
    Var y = attention(tape, dense(tape, x, qkv, Activation::none), sequences, 2, 0.25, 12);
    y = dense(tape, y, output, Activation::gelu);
    x = layer_norm(tape, y, x, second);
    // A row that is asked for twice, and the words' table used a second time, as the decoder.
    Var logits = linear(tape, gather(tape, x, ids<int32_t>({3, 1, 3})), words, &bias);
    return cross_entropy(tape, logits, labels, 0).host<double>(stream_)[0];
  });
}

// Beside a loss on what the same attention gives; it has no part in the dropout.
TEST_F(SequenceOps, TheDivergenceOfAttention) {
  Parameter& table = parameter("table", {5, 6});
  Dense qkv = layer({"query", "key", "value"}, 6, 4);
  allocate();
  Sequences sequences = pack({4, 9}, {2, 3});
  Tensor teacher = tensor("teacher", {5, 3 * 9});
  expect_finite_differences([&](Tape& tape) {
    std::vector<Attended> attended;
    tape.attended = &attended;
    Var x = dense(tape, embedding(tape, ids<int32_t>({1, 4, 0, 1, 3}), table), qkv, Activation::none);
    Var y = attention(tape, x, sequences, 2, 0.25, 12);
    tape.attended = nullptr;
    Tensor divergence =
        attention_divergence(tape, {tape.constant(teacher), 3}, attended.at(0), sequences, 0.5);
    return loss(tape, y) + divergence.host<double>(stream_)[0];
  });
}

TEST_F(SequenceOps, LayerNormAlone) {
  Parameter& table = parameter("table", {4, 5});
  LayerNorm only = norm("only", 5);
  allocate();
  expect_finite_differences([&](Tape& tape) {
    return loss(tape, layer_norm(tape, embedding(tape, ids<int32_t>({0, 1, 2, 3}), table), nullptr, only));
  });
}

// Several layers in one product are those layers side by side, values and gradients, and a frozen one of them
// gets nothing while the others do not notice.
TEST_F(SequenceOps, StackedLayersAreTheLayers) {
  Parameter& table = parameter("table", {4, 3});
  Dense both = layer({"left", "right"}, 3, 5);
  allocate();
  Dense left{{both.weights[0]}, {both.biases[0]}}, right{{both.weights[1]}, {both.biases[1]}};
  Tensor rows = ids<int32_t>({0, 1, 2, 3}), target = tensor("target", {4, 10});
  std::vector<double> targets = target.host<double>(stream_), halves[2];
  for (size_t i = 0; i < targets.size(); ++i) halves[i % 10 / 5].push_back(targets[i]);
  for (bool frozen : {false, true}) {
    both.weights[1]->trainable = both.biases[0]->trainable = !frozen;
    std::vector<double> values[2], gradients[2];
    for (int stacked : {0, 1}) {
      sums_ = {Tensor::zeros(stream_, DType::f64, {store_.value_size()}), {}};
      Tape tape(backend_, stream_, DType::f64, &sums_);
      Var x = embedding(tape, rows, table);
      if (stacked) {
        Var y = dense(tape, x, both, Activation::gelu);
        values[1] = y->value.host<double>(stream_);
        squared_error(tape, y, target);
      } else {
        Var a = dense(tape, x, left, Activation::gelu), b = dense(tape, x, right, Activation::gelu);
        std::vector<double> va = a->value.host<double>(stream_), vb = b->value.host<double>(stream_);
        for (size_t r = 0; r < 4; ++r)
          for (const auto* v : {&va, &vb})
            values[0].insert(values[0].end(), v->begin() + 5 * static_cast<long>(r),
                             v->begin() + 5 * static_cast<long>(r + 1));
        squared_error(tape, a, Tensor::from<double>(stream_, {4, 5}, halves[0]));
        squared_error(tape, b, Tensor::from<double>(stream_, {4, 5}, halves[1]));
      }
      tape.backward();
      gradients[stacked] = sums_.gradients.host<double>(stream_);
    }
    EXPECT_EQ(values[0], values[1]);
    // A mean over 5 elements is half of it over 10.
    for (double& v : gradients[0]) v /= 2;
    // Sums of at most 10 products of values below 4, in another order.
    EXPECT_THAT(gradients[1], testing::Pointwise(testing::DoubleNear(40 * 10 * 0x1p-53), gradients[0]));
    for (Parameter* p : {both.weights[1], both.biases[0]}) {
      if (frozen) {
        EXPECT_THAT(gradient(*p), testing::Each(0)) << p->name;
      } else {
        EXPECT_THAT(gradient(*p), testing::Contains(testing::Ne(0))) << p->name;
      }
    }
  }
  // New values of one of them make a new stack.
  Tape tape(backend_, stream_, DType::f64);
  Var x = tape.constant(tensor("x", {1, 3}));
  std::vector<double> before = dense(tape, x, both, Activation::none)->value.host<double>(stream_);
  set_values(stream_, *both.biases[1], std::vector<double>{1, 2, 3, 4, 5});
  std::vector<double> after = dense(tape, x, both, Activation::none)->value.host<double>(stream_);
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(before[i] == after[i], i < 5) << i;
}

// What comes out for a sample does not depend on where packing put it, dropout included.
TEST_F(SequenceOps, PackingChangesNothing) {
  allocate();
  std::vector<double> a = random("a", 2 * 12), b = random("b", 3 * 12);
  auto run = [&](bool swapped) {
    Sequences sequences = swapped ? pack({9, 4}, {3, 2}) : pack({4, 9}, {2, 3});
    std::vector<double> both = swapped ? b : a;
    const std::vector<double>& second = swapped ? a : b;
    both.insert(both.end(), second.begin(), second.end());
    Tape tape(backend_, stream_, DType::f64);
    tape.training = true;
    Var y =
        attention(tape, tape.constant(Tensor::from<double>(stream_, {5, 12}, both)), sequences, 2, 0.5, 3);
    return dropout(tape, y, 0.5, 5, sequences.token_ids)->value.host<double>(stream_);
  };
  std::vector<double> one = run(false), other = run(true);
  std::rotate(other.begin(), other.begin() + 3 * 4, other.end());
  EXPECT_EQ(one, other);
  EXPECT_THAT(one, testing::Contains(0));
}

TEST_F(SequenceOps, NothingIsDroppedOutsideTraining) {
  allocate();
  Sequences sequences = pack({4}, {5});
  auto run = [&](bool training, double p) {
    Tape tape(backend_, stream_, DType::f64);
    tape.training = training;
    Var y = attention(tape, tape.constant(tensor("x", {5, 12})), sequences, 2, p, 3);
    return dropout(tape, y, p, 5, sequences.token_ids)->value.host<double>(stream_);
  };
  EXPECT_EQ(run(false, 0.5), run(true, 0));
  EXPECT_NE(run(true, 0.5), run(true, 0));
}

}  // namespace
}  // namespace taper
