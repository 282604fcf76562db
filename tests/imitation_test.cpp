// Imitation on a few real images: what is trained, on what, and what stays as it was.

#include "recipes/imitation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "runtime/philox.h"
#include "tests/imitation_setting.h"

namespace taper {
namespace {

using Setting = ImitationSetting;

std::set<std::string> norm(const std::string& name) { return {name + ".weight", name + ".bias"}; }

std::set<std::string> both(std::set<std::string> a, const std::set<std::string>& b) {
  a.insert(b.begin(), b.end());
  return a;
}

std::set<std::string> block(const std::string& name) {
  return both(both(norm(name + ".bn1"), norm(name + ".bn2")),
              {name + ".conv1.weight", name + ".conv2.weight"});
}

TEST(Imitation, TrainsOneUnitAfterTheOther) {
  Setting inner;
  ASSERT_EQ(inner.imitation.targets().size(), 2u);
  inner.imitation.select(inner.imitation.rounds()[0]);
  EXPECT_EQ(inner.trainable(), block("layer1.0"));
  inner.imitation.select(inner.imitation.rounds()[1]);
  EXPECT_EQ(inner.trainable(),
            both(block("layer2.0"), both(norm("layer2.0.downsample.1"), {"layer2.0.downsample.0.weight"})));

  Setting tied(kTied);
  ASSERT_EQ(tied.imitation.targets().size(), 3u);
  EXPECT_EQ(tied.imitation.rounds()[0][0].name, "stem");
  tied.imitation.select(tied.imitation.rounds()[0]);
  EXPECT_EQ(tied.trainable(), both(norm("bn1"), {"conv1.weight"}));
  tied.imitation.select(tied.imitation.rounds()[1]);
  EXPECT_EQ(tied.trainable(), block("layer1.0"));

  // A free unit's own lift is trained with it, and the lower of what it reads.
  Setting free(kFree);
  free.imitation.select(free.imitation.rounds()[0]);
  EXPECT_EQ(free.trainable(), both(norm("bn1"), {"conv1.weight", "bridge.0.lift"}));
  free.imitation.select(free.imitation.rounds()[1]);
  EXPECT_EQ(free.trainable(), both(block("layer1.0"), {"bridge.0.lower", "bridge.1.lift"}));
  free.imitation.select(free.imitation.rounds()[2]);
  EXPECT_EQ(free.trainable(), both(block("layer2.0"), {"bridge.1.lower", "bridge.2.lift"}));
}

class EveryKind : public testing::TestWithParam<int> {
 protected:
  static std::vector<std::string> overrides() {
    int kind = GetParam() / 2;
    std::vector<std::string> result = kind == 0 ? std::vector<std::string>{} : kind == 1 ? kTied : kFree;
    return with(std::move(result),
                GetParam() % 2 == 0 ? "imitate.input=sequential" : "imitate.input=teacher");
  }
};

TEST_P(EveryKind, MovesWhatIsTrainedAndNothingElse) {
  Setting s(overrides());
  for (Targets targets : s.imitation.rounds()) {
    s.imitation.select(targets);
    std::set<std::string> trained = s.trainable(), expected = trained;
    // The statistics of trained norms move with them.
    for (const std::string& name : trained) {
      std::string norm = name.substr(0, name.rfind('.'));
      if (s.thin.network->store().find(norm + ".running_mean") != nullptr)
        expected.insert({norm + ".running_mean", norm + ".running_var"});
    }
    Bytes thin = s.values(*s.thin.network), wide = s.values(*s.wide.network);
    s.train(targets, 2);
    std::unique_ptr<Batches> batches = s.batches(2);
    estimate_statistics(s.context(), *batches, 2,
                        s.imitation.objective(targets, Imitation::Input::sequential));
    EXPECT_EQ(s.values(*s.wide.network), wide) << targets[0].name;
    std::set<std::string> moved;
    for (const auto& [name, values] : s.values(*s.thin.network))
      if (values != thin.at(name)) moved.insert(name);
    EXPECT_EQ(moved, expected) << targets[0].name;
  }
}

TEST_P(EveryKind, LowersTheError) {
  Setting s(overrides());
  for (Targets targets : s.imitation.rounds()) {
    s.imitation.select(targets);
    auto estimate = [&] {
      std::unique_ptr<Batches> batches = s.batches(4);
      estimate_statistics(s.context(), *batches, 4,
                          s.imitation.objective(targets, Imitation::Input::sequential));
    };
    estimate();
    std::vector<double> before = s.imitation.errors(targets);
    s.train(targets, 12);
    estimate();
    std::vector<double> after = s.imitation.errors(targets);
    for (size_t i = 0; i < targets.size(); ++i) EXPECT_LT(after[i], before[i]) << targets[i].name;
  }
}

// In every step all units learn, and none from another's loss: after one step each has the bytes that it gets
// when it is trained alone. With sequential input this can be said of the first only, whose prefix is frozen
// anyway; what the others read has passed through batch norms in training mode.
TEST_P(EveryKind, TrainsTogetherAsApart) {
  Setting together(with(overrides(), "imitate.order=together"));
  ASSERT_EQ(together.imitation.rounds().size(), 1u);
  Targets all = together.imitation.rounds()[0];
  ASSERT_EQ(all.size(), together.imitation.targets().size());
  together.imitation.select(all);
  std::set<std::string> trained = together.trainable(), apart;
  together.train(all, 1);
  size_t units = together.imitation.input() == Imitation::Input::teacher ? all.size() : 1;
  for (size_t i = 0; i < units; ++i) {
    Setting alone(overrides());
    Targets one = alone.imitation.rounds()[i];
    ASSERT_EQ(one.size(), 1u);
    alone.imitation.select(one);
    alone.train(one, 1);
    Bytes expected = alone.values(*alone.thin.network), values = together.values(*together.thin.network);
    for (const std::string& name : alone.trainable()) {
      // The reader of a boundary runs its lift too.
      if (name.ends_with(".lift") && i + 1 < all.size()) continue;
      EXPECT_EQ(values.at(name), expected.at(name)) << name;
    }
  }
  for (size_t i = 0; i < all.size(); ++i) {
    together.imitation.select(all.subspan(i, 1));
    apart = both(apart, together.trainable());
  }
  EXPECT_EQ(trained, apart);
}

TEST_P(EveryKind, LowersTheErrorTogether) {
  Setting s(with(overrides(), "imitate.order=together"));
  Targets all = s.imitation.rounds()[0];
  s.imitation.select(all);
  auto estimate = [&] {
    std::unique_ptr<Batches> batches = s.batches(4);
    estimate_statistics(s.context(), *batches, 4, s.imitation.objective(all, Imitation::Input::sequential));
  };
  estimate();
  std::vector<double> before = s.imitation.errors(all);
  s.train(all, 12);
  estimate();
  std::vector<double> after = s.imitation.errors(all);
  for (size_t i = 0; i < all.size(); ++i) EXPECT_LT(after[i], before[i]) << all[i].name;
}

// In evaluation mode it makes no difference to a loss who else is trained.
TEST_P(EveryKind, AddsUpTheTargetsLosses) {
  Setting s(with(overrides(), "imitate.order=together"));
  double sum = 0;
  for (size_t i = 0; i < s.imitation.targets().size(); ++i)
    sum += s.loss(s.imitation.rounds()[0].subspan(i, 1), s.imitation.input());
  EXPECT_NEAR(s.loss(s.imitation.rounds()[0], s.imitation.input()), sum, 1e-5 * sum);
}

INSTANTIATE_TEST_SUITE_P(Kinds, EveryKind, testing::Range(0, 6), [](const auto& info) {
  std::string kind = info.param / 2 == 0 ? "inner" : info.param / 2 == 1 ? "tied" : "free";
  return kind + (info.param % 2 == 0 ? "_sequential" : "_teacher");
});

TEST(Imitation, ReadsTheSameBehindACopiedStem) {
  Setting s;
  std::vector<Targets> targets = s.imitation.rounds();
  double first = s.loss(targets[0], Imitation::Input::sequential);
  // The relu of the stem is fused on one side: the same numbers all the same.
  EXPECT_FLOAT_EQ(static_cast<float>(first),
                  static_cast<float>(s.loss(targets[0], Imitation::Input::teacher)));
  EXPECT_GT(first, 0);
  double second = s.loss(targets[1], Imitation::Input::sequential);
  EXPECT_GT(std::abs(second - s.loss(targets[1], Imitation::Input::teacher)), 1e-3 * second);
}

// |lift h - t|^2 over a sample's elements, summed over samples; a null lift is the identity.
double naive_loss(Stream& stream, const Tensor& h, const Tensor& t, const Parameter* lift) {
  auto thin = static_cast<size_t>(h.shape().back()), wide = static_cast<size_t>(t.shape().back());
  std::vector<float> student = h.host<float>(stream), teacher = t.host<float>(stream);
  std::vector<double> u = lift != nullptr ? host_values(stream, *lift) : std::vector<double>{};
  double sum = 0;
  for (size_t r = 0; r < teacher.size() / wide; ++r)
    for (size_t w = 0; w < wide; ++w) {
      double lifted = lift != nullptr ? 0 : static_cast<double>(student[r * wide + w]);
      for (size_t j = 0; lift != nullptr && j < thin; ++j)
        lifted += u[w * thin + j] * static_cast<double>(student[r * thin + j]);
      sum += std::pow(lifted - static_cast<double>(teacher[r * wide + w]), 2);
    }
  return sum * static_cast<double>(t.dim(0)) / static_cast<double>(t.size());
}

// The loss of a training step, part by part: what lies below in evaluation mode, the target in training mode,
// both compared before the activation, or after it under free bridges.
TEST_P(EveryKind, ComparesWhatItShould) {
  // Of three stages: unit 2 reads through a lift that is not unit 0's, tied bridges too.
  Setting s(with(overrides(), "network.depths=[1, 1, 1]"));
  const Network &thin = *s.thin.network, &wide = *s.wide.network;
  const BridgedNetwork& bridged = *s.thin.bridged;
  bool free = bridged.kind() == BridgeKind::free, teacher = s.imitation.input() == Imitation::Input::teacher;
  // Free bridges begin as identities, which would hide one that is taken at the wrong boundary.
  for (int64_t b = 0; free && b < 4; ++b)
    for (const Parameter* map : {bridged.lift(b), bridged.lower(b)}) {
      if (map == nullptr) continue;
      std::vector<double> values = s.values(thin, map->name);
      Draws draws(hash(map->name), 0, 0);
      for (double& v : values) v += 0.25 * draws.uniform();
      s.set(map->name, values);
    }
  std::unique_ptr<Batch> batch = s.batches(1)->next();
  for (Targets targets : s.imitation.rounds()) {
    const ImitationTarget& target = targets[0];
    double expected = 0;
    s.engine.team->run_one([&](Stream& stream) {
      Tape fixed(*s.engine.backend, stream, DType::f32), training(*s.engine.backend, stream, DType::f32);
      training.training = true;
      Var images = batch->upload(fixed, 0, batch->count).input;
      auto wide_at = [&](int64_t boundary) {
        Var x = wide.stem(fixed, images, boundary > 0 || free);
        for (int64_t i = 0; i < boundary; ++i) x = wide.block(fixed, i, x, i + 1 < boundary || free);
        return x;
      };
      int64_t below = target.boundary - 1;
      Var h;
      if (below < 0) {
        h = thin.stem(training, images, free);
      } else {
        Var x;
        if (teacher) {
          x = fixed.constant(bridged.project(fixed, below, wide_at(below)->value));
          if (!free) x = activate(fixed, Activation::relu, x);
          x = bridged.cross(fixed, below, x);
        } else {
          x = bridged.cross(fixed, 0, thin.stem(fixed, images));
          for (int64_t i = 0; i < below; ++i) x = bridged.cross(fixed, i + 1, thin.block(fixed, i, x));
        }
        h = thin.block(training, below, x, free);
      }
      expected = naive_loss(stream, h->value, wide_at(target.boundary)->value, bridged.lift(target.boundary));
    });
    expected /= static_cast<double>(batch->count);
    // h and t have the same bits on both sides. The kernel adds in f32, in parts of 16384: an error of about
    // sqrt(16384) 2^-24 = 8e-6 of sums that are a few times the loss.
    EXPECT_NEAR(s.loss(targets, s.imitation.input(), true), expected, 1e-4 * expected) << targets[0].name;
  }
}

TEST(Imitation, StartsFromTheWideStemAndHead) {
  Setting s;
  for (const char* name : {"conv1.weight", "bn1.weight", "bn1.running_var", "fc.weight", "fc.bias"})
    EXPECT_EQ(s.values(*s.thin.network, name), s.values(*s.wide.network, name)) << name;
  EXPECT_NE(s.values(*s.thin.network, "layer1.0.conv2.weight"),
            s.values(*s.wide.network, "layer1.0.conv2.weight"));
}

// The thin head is the wide one after the last lift [16, 8].
void expect_lifted_head(Setting& s) {
  auto head = s.values(*s.thin.network, "fc.weight"), wide = s.values(*s.wide.network, "fc.weight");
  std::vector<double> lift;
  for (const auto& [name, values] : s.values(*s.thin.network))
    if (name == "bridge.2.lift") lift = values;
  ASSERT_EQ(lift.size(), 16u * 8);
  ASSERT_EQ(head.size(), 10u * 8);
  for (size_t k = 0; k < 10; ++k)
    for (size_t j = 0; j < 8; ++j) {
      double expected = 0, size = 0;
      for (size_t w = 0; w < 16; ++w) {
        expected += wide[k * 16 + w] * lift[w * 8 + j];
        size += std::abs(wide[k * 16 + w] * lift[w * 8 + j]);
      }
      EXPECT_NEAR(head[k * 8 + j], expected, size * 0x1p-23);  // it is rounded to f32 once
    }
  EXPECT_EQ(s.values(*s.thin.network, "fc.bias"), s.values(*s.wide.network, "fc.bias"));
}

TEST(Imitation, StartsFromTheLiftedHead) {
  Setting tied(kTied), free(kFree);
  expect_lifted_head(tied);
  expect_lifted_head(free);
  // A lower starts as its lift, transposed.
  auto lift = free.values(*free.thin.network, "bridge.1.lift"),
       lower = free.values(*free.thin.network, "bridge.1.lower");
  for (size_t i = 0; i < 8; ++i)
    for (size_t j = 0; j < 4; ++j) EXPECT_EQ(lower[j * 8 + i], lift[i * 4 + j]);
}

TEST(Imitation, EndsWithTheHeadBehindTheTrainedLift) {
  Setting s(kFree);
  Targets last = s.imitation.rounds().back();
  auto before = s.values(*s.thin.network, "fc.weight");
  s.imitation.select(last);
  s.train(last, 2);
  EXPECT_EQ(s.values(*s.thin.network, "fc.weight"), before);
  s.imitation.finish();
  EXPECT_NE(s.values(*s.thin.network, "fc.weight"), before);
  expect_lifted_head(s);
}

// With twice the lift the thin output is half and the bridge's product twice.
TEST(Imitation, TeachersInputDoesNotDependOnALiftsScale) {
  Setting s(kFree);
  Targets target = s.imitation.rounds()[1];
  double before = s.loss(target, Imitation::Input::teacher);
  auto lift = s.values(*s.thin.network, "bridge.0.lift"), lower = s.values(*s.thin.network, "bridge.0.lower");
  for (double& v : lift) v *= 2;
  s.set("bridge.0.lift", lift);
  EXPECT_NEAR(s.loss(target, Imitation::Input::teacher), before, 1e-5 * before);  // in f32
  for (double& v : lower) v *= 2;
  s.set("bridge.0.lower", lower);
  EXPECT_GT(std::abs(s.loss(target, Imitation::Input::teacher) - before), 1e-3 * before);
}

// A thin network that is the wide one makes no error.
TEST(Imitation, OfItselfIsExact) {
  Setting s(std::vector<std::string>{"widen.factor=1"});
  Bytes wide = s.values(*s.wide.network);
  for (const auto& [name, values] : wide) {
    std::vector<double> moved = values;
    for (double& v : moved) v = name.ends_with("running_var") ? 0.7 : static_cast<float>(v + 0.01);
    s.engine.team->run_one([&](Stream& stream) {
      for (Network* network : {s.wide.network.get(), s.thin.network.get()})
        set_values(stream, *network->store().find(name), moved);
    });
  }
  for (Targets targets : s.imitation.rounds()) {
    EXPECT_EQ(s.imitation.errors(targets)[0], 0) << targets[0].name;
    auto weight = s.values(*s.thin.network, targets[0].name + ".bn2.weight");
    weight[0] += 0.5;
    s.set(targets[0].name + ".bn2.weight", weight);
    EXPECT_GT(s.imitation.errors(targets)[0], 0) << targets[0].name;
    weight[0] -= 0.5;
    s.set(targets[0].name + ".bn2.weight", weight);
  }
}

// The mean over two batches of two shards each of mean and unbiased variance of the stem's convolution.
TEST(Imitation, EstimatesStatisticsAsTheShardsMean) {
  Setting s(kTied);
  s.imitation.select(s.imitation.rounds()[0]);
  std::unique_ptr<Batches> batches = s.batches(2);
  estimate_statistics(s.context(), *batches, 2,
                      s.imitation.objective(s.imitation.rounds()[0], Imitation::Input::sequential));
  std::vector<double> mean(4), variance(4);
  std::unique_ptr<Batches> again = s.batches(2);
  for (int64_t i = 0; i < 2; ++i) {
    std::unique_ptr<Batch> batch = again->next();
    for (int64_t shard = 0; shard < 2; ++shard)
      s.engine.team->run_one([&](Stream& stream) {
        Tape tape(*s.engine.backend, stream, DType::f32);
        ShardInput input = batch->upload(tape, 8 * shard, 8 * shard + 8);
        Conv conv{.filter = s.thin.network->store().find("conv1.weight"), .padding = 1};
        auto y = conv2d(tape, input.input, conv)->value.host<float>(stream);
        auto rows = static_cast<double>(y.size() / 4);
        for (size_t c = 0; c < 4; ++c) {
          double sum = 0, squares = 0;
          for (size_t r = c; r < y.size(); r += 4) sum += static_cast<double>(y[r]);
          for (size_t r = c; r < y.size(); r += 4)
            squares += std::pow(static_cast<double>(y[r]) - sum / rows, 2);
          mean[c] += sum / rows / 4;
          variance[c] += squares / (rows - 1) / 4;
        }
      });
  }
  auto running_mean = s.values(*s.thin.network, "bn1.running_mean"),
       running_variance = s.values(*s.thin.network, "bn1.running_var");
  // Sums in f32 of 6272 terms: far below 1e-4 of the deviation.
  for (size_t c = 0; c < 4; ++c) {
    EXPECT_NEAR(running_mean[c], mean[c], 1e-4 * std::sqrt(variance[c]));
    EXPECT_NEAR(running_variance[c], variance[c], 1e-4 * variance[c]);
  }
}

}  // namespace
}  // namespace taper
