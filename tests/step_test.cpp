// One training step: shards, sums and the update.

#include "recipes/step.h"

#include <gtest/gtest.h>

#include <cmath>

#include "layers/resnet.h"
#include "recipes/data/loader.h"
#include "tests/network_values.h"

namespace taper {
namespace {

constexpr int64_t kSize = 6, kClasses = 3;

// A small residual network on a backend with some workers.
struct Setting {
  Setting(std::unique_ptr<Backend> made, DType type, int workers, int64_t shards)
      : backend(std::move(made)), team(*backend, workers, 1), type(type), shards(shards) {
    network = make_resnet({.style = ResNetSpec::Style::cifar,
                           .block = ResNetSpec::BlockKind::basic,
                           .depths = {1, 1},
                           .width = 2,
                           .channels = 1,
                           .classes = kClasses});
    team.run_one([&](Stream& stream) {
      network->store().allocate(stream, accumulator(type));
      randomize(stream, network->store());
    });
  }
  StepOutcome step(const Batch& batch, const Objective& objective, Optimizer& optimizer, double lr) {
    return train_step({team, *network, type, shards}, batch, objective, optimizer, lr);
  }
  std::vector<double> values(const std::string& name) {
    std::vector<double> result;
    team.run_one([&](Stream& stream) { result = host_values(stream, *network->store().find(name)); });
    return result;
  }
  // Of every tensor in the store's order.
  std::vector<std::vector<double>> values() {
    return values([](const Parameter&) { return true; });
  }
  std::vector<std::vector<double>> parameters() {
    return values([](const Parameter& p) { return !p.is_statistic(); });
  }
  std::vector<std::vector<double>> values(const std::function<bool(const Parameter&)>& wanted) {
    std::vector<std::vector<double>> result;
    for (const Parameter& p : network->store().all())
      if (wanted(p)) result.push_back(values(p.name));
    return result;
  }

  std::unique_ptr<Backend> backend;
  Team team;
  DType type;
  int64_t shards;
  std::unique_ptr<Network> network;
};

Setting on_cpu(int workers, int64_t shards) { return {make_cpu_backend(), DType::f32, workers, shards}; }
Setting on_reference(int64_t shards) { return {make_reference_backend(), DType::f64, 2, shards}; }

ImageBatch batch(int64_t count, std::string_view name = "batch") {
  ImageBatch result;
  result.image_size = kSize;
  result.channels = 1;
  result.count = count;
  for (double v : normals(count * kSize * kSize, name)) result.images.push_back(static_cast<float>(v));
  for (int64_t i = 0; i < count; ++i) result.labels.push_back(static_cast<int32_t>((i * i) % kClasses));
  return result;
}

// Cross-entropy with the shard's statistics, or with the running ones, which makes samples independent.
Objective classify(const Network& network, bool running, double smoothing = 0) {
  return [&network, running, smoothing](Tape& tape, const ShardInput& input) {
    if (running) tape.training = false;
    Tensor loss = cross_entropy(tape, network.forward(tape, input.input), input.labels, smoothing);
    return ShardLoss{loss, input.count};
  };
}

// The same on samples of the other classes than 0 alone, of which shards have unlike numbers, or none.
Objective classify_some(const Network& network) {
  return [&network](Tape& tape, const ShardInput& input) {
    tape.training = false;
    std::vector<int32_t> rows, labels, all = input.labels.host<int32_t>(tape.stream);
    for (size_t i = 0; i < all.size(); ++i) {
      if (all[i] == 0) continue;
      rows.push_back(static_cast<int32_t>(i));
      labels.push_back(all[i]);
    }
    int64_t count = std::ssize(rows);
    if (count == 0) return ShardLoss{Tensor::zeros(tape.stream, accumulator(tape.type), {1}), 0};
    Var some =
        gather(tape, network.forward(tape, input.input), Tensor::from<int32_t>(tape.stream, {count}, rows));
    return ShardLoss{cross_entropy(tape, some, Tensor::from<int32_t>(tape.stream, {count}, labels), 0),
                     count};
  };
}

// The samples that classify_some() counts.
ImageBatch without_class_0(ImageBatch images) {
  for (auto i = images.count - 1; i >= 0; --i) {
    if (images.labels[static_cast<size_t>(i)] != 0) continue;
    images.labels.erase(images.labels.begin() + i);
    auto pixels = images.images.begin() + i * kSize * kSize;
    images.images.erase(pixels, pixels + kSize * kSize);
    --images.count;
  }
  return images;
}

TEST(Step, GivesTheSameBitsOnAnyNumberOfWorkers) {
  std::vector<std::vector<std::vector<double>>> results;
  std::vector<double> losses, gradient_norms;
  for (int workers : {1, 2, 3}) {
    Setting s = on_cpu(workers, 4);
    Optimizer optimizer(s.team, s.network->store(), {.weight_decay = 1e-3, .clip_norm = 1, .ema_decay = 0.9});
    StepOutcome outcome;
    for (const char* name : {"first", "second", "third"})
      outcome = s.step(batch(11, name), classify(*s.network, false, 0.1), optimizer, 0.1);
    losses.push_back(outcome.loss);
    gradient_norms.push_back(outcome.gradient_norm);
    results.push_back(s.values());
    optimizer.swap_average(s.team);
    results.back().push_back(s.values("fc.weight"));
  }
  EXPECT_EQ(results[1], results[0]);
  EXPECT_EQ(results[2], results[0]);
  EXPECT_EQ(losses, std::vector(3, losses[0]));
  EXPECT_EQ(gradient_norms, std::vector(3, gradient_norms[0]));
}

// Accumulating over shards, even or not, is the step of the whole batch where samples are independent.
TEST(Step, DoesNotDependOnTheNumberOfShards) {
  for (auto [count, all] : {std::pair{8, true}, {7, true}, {3, true}, {8, false}, {7, false}}) {
    std::vector<std::vector<double>> whole;
    StepOutcome first;
    for (int64_t shards : {0, 1, 2, 4, 8}) {  // 0: what counts, as one shard of its own
      Setting s = on_reference(std::max<int64_t>(1, shards));
      Optimizer optimizer(s.team, s.network->store(), {.momentum = 0.9});
      ImageBatch images = shards == 0 && !all ? without_class_0(batch(count)) : batch(count);
      Objective objective = shards == 0 || all ? classify(*s.network, true) : classify_some(*s.network);
      StepOutcome outcome = s.step(images, objective, optimizer, 0.1);
      if (shards == 0) {
        first = outcome;
        whole = s.values();
      }
      // Rounding of double, in sums of fewer than 1e4 terms.
      EXPECT_NEAR(outcome.loss, first.loss, 1e-11 * first.loss);
      EXPECT_NEAR(outcome.gradient_norm, first.gradient_norm, 1e-11 * first.gradient_norm);
      std::vector<std::vector<double>> values = s.values();
      for (size_t i = 0; i < values.size(); ++i)
        for (size_t k = 0; k < values[i].size(); ++k)
          EXPECT_NEAR(values[i][k], whole[i][k], 1e-11) << s.network->store().all()[i].name;
    }
    EXPECT_GT(first.gradient_norm, 1e-2);
  }
}

// The mean gradient of every trained tensor, from a step of plain SGD with a rate of 1.
std::vector<std::vector<double>> gradients(double smoothing = 0) {
  Setting s = on_reference(2);
  std::vector<std::vector<double>> result = s.parameters();
  Optimizer optimizer(s.team, s.network->store(), {.momentum = 0});
  s.step(batch(5), classify(*s.network, true, smoothing), optimizer, 1);
  std::vector<std::vector<double>> after = s.parameters();
  for (size_t i = 0; i < result.size(); ++i)
    for (size_t k = 0; k < result[i].size(); ++k) result[i][k] -= after[i][k];
  return result;
}

TEST(Step, ClipsTheWholeGradient) {
  std::vector<std::vector<double>> g = gradients();
  double squares = 0;
  for (const auto& tensor : g)
    for (double v : tensor) squares += v * v;
  double norm = std::sqrt(squares);
  for (double bound : {0.5 * norm, 2 * norm}) {
    Setting s = on_reference(2);
    auto before = s.parameters();
    Optimizer optimizer(s.team, s.network->store(), {.momentum = 0, .clip_norm = bound});
    StepOutcome outcome = s.step(batch(5), classify(*s.network, true), optimizer, 0.1);
    EXPECT_NEAR(outcome.gradient_norm, norm, 1e-10 * norm);
    auto after = s.parameters();
    // torch.nn.utils.clip_grad_norm_ divides by the norm and 1e-6.
    double factor = std::min(1.0, bound / (norm + 1e-6));
    for (size_t i = 0; i < g.size(); ++i)
      for (size_t k = 0; k < g[i].size(); ++k)
        EXPECT_NEAR(after[i][k], before[i][k] - 0.1 * factor * g[i][k], 1e-10);
  }
}

TEST(Step, DecaysWhatItShould) {
  std::vector<std::vector<double>> g = gradients();
  for (bool all : {true, false}) {
    Setting s = on_reference(2);
    auto before = s.parameters();
    Optimizer optimizer(s.team, s.network->store(),
                        {.momentum = 0, .weight_decay = 0.25, .decay_norms_and_biases = all});
    s.step(batch(5), classify(*s.network, true), optimizer, 0.1);
    auto after = s.parameters();
    size_t i = 0;
    for (const Parameter& p : s.network->store().all()) {
      if (p.is_statistic()) continue;
      bool weight = p.role == Role::filter || p.role == Role::matrix;
      double decay = weight || all ? 0.25 : 0;
      for (size_t k = 0; k < g[i].size(); ++k)
        EXPECT_NEAR(after[i][k], before[i][k] - 0.1 * (g[i][k] + decay * before[i][k]), 1e-10) << p.name;
      ++i;
    }
  }
}

// The first direction of Adam is g / |g|, and each tensor has a norm of its own.
TEST(Step, TakesLambsStepTensorByTensor) {
  std::vector<std::vector<double>> g = gradients();
  Setting s = on_reference(2);
  auto before = s.parameters();
  constexpr double kEps = 1e-6, kDecay = 0.25;
  Optimizer optimizer(s.team, s.network->store(),
                      {.rule = OptimizerOptions::Rule::lamb, .eps = kEps, .weight_decay = kDecay});
  s.step(batch(5), classify(*s.network, true), optimizer, 0.1);
  auto after = s.parameters();
  for (size_t i = 0; i < g.size(); ++i) {
    std::vector<double> direction;
    double p_squares = 0, squares = 0;
    for (size_t k = 0; k < g[i].size(); ++k) {
      direction.push_back(g[i][k] / (std::abs(g[i][k]) + kEps) + kDecay * before[i][k]);
      p_squares += before[i][k] * before[i][k];
      squares += direction.back() * direction.back();
    }
    const double ratio = p_squares == 0 || squares == 0 ? 1 : std::sqrt(p_squares / squares);
    for (size_t k = 0; k < g[i].size(); ++k)
      EXPECT_NEAR(after[i][k], before[i][k] - 0.1 * ratio * direction[k], 1e-8) << i << ", " << k;
  }
}

// The gradient of the head's bias is the mean of softmax - target.
TEST(Step, SmoothsLabels) {
  constexpr double kSmoothing = 0.3;
  Setting s = on_reference(2);
  ImageBatch images = batch(5);
  std::vector<double> logits;
  s.team.run_one([&](Stream& stream) {
    Tape tape(*s.backend, stream, DType::f64);
    Var x = images.upload(tape, 0, 5).input;
    logits = s.network->forward(tape, x)->value.host<double>(stream);
  });
  std::vector<double> expected(kClasses);
  for (size_t r = 0; r < 5; ++r) {
    double sum = 0;
    for (size_t c = 0; c < kClasses; ++c) sum += std::exp(logits[r * kClasses + c]);
    for (size_t c = 0; c < kClasses; ++c) {
      double target =
          kSmoothing / kClasses + (static_cast<int32_t>(c) == images.labels[r] ? 1 - kSmoothing : 0);
      expected[c] += (std::exp(logits[r * kClasses + c]) / sum - target) / 5;
    }
  }
  std::vector<double> bias = gradients(kSmoothing).back();
  ASSERT_EQ(s.network->store().all().back().name, "fc.bias");
  for (size_t c = 0; c < kClasses; ++c) EXPECT_NEAR(bias[c], expected[c], 1e-12);
}

TEST(Step, AveragesWeightsAndStatistics) {
  constexpr double kDecay = 0.75;
  Setting s = on_reference(2);
  Optimizer optimizer(s.team, s.network->store(), {.ema_decay = kDecay});
  std::vector<std::vector<double>> average = s.values(), last;
  for (const char* name : {"first", "second", "third"}) {
    s.step(batch(6, name), classify(*s.network, false), optimizer, 0.1);
    last = s.values();
    for (size_t i = 0; i < last.size(); ++i)
      for (size_t k = 0; k < last[i].size(); ++k)
        average[i][k] = kDecay * average[i][k] + (1 - kDecay) * last[i][k];
  }
  optimizer.swap_average(s.team);
  std::vector<std::vector<double>> swapped = s.values();
  for (size_t i = 0; i < last.size(); ++i)
    for (size_t k = 0; k < last[i].size(); ++k) EXPECT_NEAR(swapped[i][k], average[i][k], 1e-13);
  optimizer.swap_average(s.team);
  EXPECT_EQ(s.values(), last);
}

// running = 0.9 running + 0.1 (the shards' mean of each batch's own statistics), for norms that are trained.
TEST(Step, MovesStatisticsOfTrainedNorms) {
  Setting s = on_reference(2);
  Parameter& frozen = *s.network->store().find("layer2.0.bn1.weight");
  frozen.trainable = false;
  auto old_mean = s.values("bn1.running_mean"), old_variance = s.values("bn1.running_var"),
       kept_mean = s.values("layer2.0.bn1.running_mean"),
       kept_variance = s.values("layer2.0.bn1.running_var");
  ImageBatch images = batch(5);  // shards of 2 and 3 images
  std::vector<double> mean(2), variance(2);
  for (auto [begin, end] : {std::pair{0, 2}, std::pair{2, 5}})
    s.team.run_one([&](Stream& stream) {
      Tape tape(*s.backend, stream, DType::f64);
      Var x = images.upload(tape, begin, end).input;
      Conv conv{.filter = s.network->store().find("conv1.weight"), .padding = 1};
      auto y = conv2d(tape, x, conv)->value.host<double>(stream);
      auto rows = static_cast<double>(y.size() / 2);
      for (size_t c = 0; c < 2; ++c) {
        double sum = 0, squares = 0;
        for (size_t r = c; r < y.size(); r += 2) sum += y[r];
        for (size_t r = c; r < y.size(); r += 2) squares += std::pow(y[r] - sum / rows, 2);
        mean[c] += sum / rows / 2;
        variance[c] += squares / (rows - 1) / 2;
      }
    });
  Optimizer optimizer(s.team, s.network->store(), {});
  s.step(images, classify(*s.network, false), optimizer, 0.1);
  auto new_mean = s.values("bn1.running_mean"), new_variance = s.values("bn1.running_var");
  for (size_t c = 0; c < 2; ++c) {
    EXPECT_NEAR(new_mean[c], 0.9 * old_mean[c] + 0.1 * mean[c], 1e-13);
    EXPECT_NEAR(new_variance[c], 0.9 * old_variance[c] + 0.1 * variance[c], 1e-13);
  }
  EXPECT_EQ(s.values("layer2.0.bn1.running_mean"), kept_mean);
  EXPECT_EQ(s.values("layer2.0.bn1.running_var"), kept_variance);
}

// A trained norm that runs in evaluation mode reports nothing, be it in all shards or in some.
TEST(Step, LeavesStatisticsThatNoShardReported) {
  Setting s = on_reference(4);
  auto statistics = [&] { return s.values([](const Parameter& p) { return p.is_statistic(); }); };
  auto before = statistics(), weights = s.parameters();
  Optimizer optimizer(s.team, s.network->store(), {});
  s.step(batch(8), classify(*s.network, true), optimizer, 0.1);
  EXPECT_EQ(statistics(), before);
  EXPECT_NE(s.parameters(), weights);

  // Where one of four shards trains, the mean is its own: as that of a batch of nothing else.
  ImageBatch images = batch(8), begin = images;
  begin.count = 2;
  begin.images.resize(2 * kSize * kSize);
  begin.labels.resize(2);
  Setting alone = on_reference(1), one = on_reference(4);
  Optimizer first(alone.team, alone.network->store(), {}), second(one.team, one.network->store(), {});
  alone.step(begin, classify(*alone.network, false), first, 0.1);
  Objective first_trains = [&](Tape& tape, const ShardInput& input) {
    double pixel = input.input->value.host<double>(tape.stream)[0];
    return classify(*one.network, static_cast<float>(pixel) != images.images[0])(tape, input);
  };
  one.step(images, first_trains, second, 0.1);
  for (const Parameter& p : alone.network->store().all()) {
    if (!p.is_statistic()) continue;
    EXPECT_EQ(one.values(p.name), alone.values(p.name)) << p.name;
  }
}

TEST(Step, LeavesEverythingWhereTheLossIsNotFinite) {
  Setting s = on_cpu(2, 2);
  auto before = s.values();
  Optimizer optimizer(s.team, s.network->store(), {.weight_decay = 0.1, .ema_decay = 0.5});
  ImageBatch spoilt = batch(4);
  spoilt.images[40] = NAN;
  EXPECT_EQ(s.step(spoilt, classify(*s.network, false), optimizer, 0.1).non_finite, "the loss");
  EXPECT_EQ(s.values(), before);
  EXPECT_EQ(optimizer.steps(), 0);
}

// Behind a finite loss: on the way back, or in the batch's statistics alone.
TEST(Step, LeavesEverythingWhereAGradientOrAStatisticIsNotFinite) {
  Setting s = on_cpu(2, 2);
  auto before = s.values();
  Optimizer optimizer(s.team, s.network->store(), {.weight_decay = 0.1, .ema_decay = 0.5});
  Objective infinite = [&](Tape& tape, const ShardInput& input) {
    Var logits = s.network->forward(tape, input.input);
    Tensor loss = cross_entropy(tape, logits, input.labels, 0);
    std::vector<float> slopes(static_cast<size_t>(logits->value.size()), 0);
    slopes.back() = INFINITY;
    Tensor slope = Tensor::from<float>(tape.stream, logits->value.shape(), slopes);
    tape.record_loss([&tape, logits, slope] { tape.accumulate(logits, slope); });
    return ShardLoss{loss, input.count};
  };
  StepOutcome outcome = s.step(batch(4), infinite, optimizer, 0.1);
  EXPECT_TRUE(std::isfinite(outcome.loss));
  EXPECT_EQ(outcome.non_finite.substr(0, 16), "the gradient of ");
  EXPECT_EQ(s.values(), before);

  // A variance of 1e60 is infinite in f32; what is normalised by it is 0.
  ImageBatch huge = batch(4);
  for (float& pixel : huge.images) pixel *= 1e30F;
  outcome = s.step(huge, classify(*s.network, false), optimizer, 0.1);
  EXPECT_TRUE(std::isfinite(outcome.loss));
  EXPECT_EQ(outcome.non_finite, "the batch's bn1.running_var");
  EXPECT_EQ(s.values(), before);
  EXPECT_EQ(optimizer.steps(), 0);
}

TEST(TreeSum, AddsInATree) {
  // 2^53 + 1 rounds to 2^53: pairs keep what a sum from the left loses.
  EXPECT_EQ(tree_sum({0x1p53, 1, 1, 1}), 0x1p53 + 2);
  EXPECT_EQ(tree_sum({1, 2, 4}), 7);
  EXPECT_EQ(tree_sum({}), 0);
}

}  // namespace
}  // namespace taper
