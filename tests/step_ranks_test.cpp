// Training steps on several ranks, which are threads here: gradients that go out in buckets while backward
// runs, and optimizers whose state is divided.

#include <gtest/gtest.h>

#include <map>

#include "layers/resnet.h"
#include "recipes/data/loader.h"
#include "recipes/step.h"
#include "tests/network_values.h"
#include "tests/rank_threads.h"

namespace taper {
namespace {

constexpr int64_t kSize = 6, kClasses = 3, kShards = 8;

// Of a batch of 5, some shards are empty.
ImageBatch batch(int64_t count, std::string_view name) {
  ImageBatch result;
  result.image_size = kSize;
  result.channels = 1;
  result.count = count;
  for (double v : normals(count * kSize * kSize, name)) result.images.push_back(static_cast<float>(v));
  for (int64_t i = 0; i < count; ++i) result.labels.push_back(static_cast<int32_t>((i * i) % kClasses));
  return result;
}

struct Result {
  std::map<std::string, std::vector<float>> tensors;  // of the store and the optimizer
  std::vector<double> outcomes;
  bool operator==(const Result&) const = default;
};

class StepOnRanks : public testing::TestWithParam<std::tuple<OptimizerOptions::Rule, DType>> {
 protected:
  Result train(Communicator& ranks, bool divided, bool rehearsed = false) {
    const auto [rule, type] = GetParam();
    Team team(*backend_, 2, 1);
    std::unique_ptr<Network> network = make_resnet({.style = ResNetSpec::Style::cifar,
                                                    .block = ResNetSpec::BlockKind::basic,
                                                    .depths = {1, 1},
                                                    .width = 4,
                                                    .channels = 1,
                                                    .classes = kClasses});
    ParameterStore& store = network->store();
    team.run_one([&](Stream& stream) {
      store.allocate(stream, type);
      randomize(stream, store);
    });
    store.find("layer1.0.conv2.weight")->trainable = false;
    Optimizer optimizer(team, store, {.rule = rule, .weight_decay = 0.1, .clip_norm = 0.5, .ema_decay = 0.9},
                        divided ? &ranks : nullptr);
    Objective objective = [&](Tape& tape, const ShardInput& input) {
      return label_loss(tape, network->forward(tape, input.input), input, 0);
    };
    Result result;
    int64_t passes = 0;
    Objective counted = [&](Tape& tape, const ShardInput& input) {
      ++passes;
      return objective(tape, input);
    };
    if (rehearsed) rehearse({team, *network, type, kShards, ranks}, batch(5, "other"), counted);
    EXPECT_EQ(passes, rehearsed ? 1 : 0);
    for (int64_t count : {24, 5, 16}) {
      StepOutcome outcome = train_step({team, *network, type, kShards, ranks},
                                       batch(count, std::to_string(count)), objective, optimizer, 0.01);
      EXPECT_EQ(outcome.non_finite, "");
      EXPECT_EQ(outcome.communication.busy > 0, ranks.ranks() > 1);
      result.outcomes.insert(result.outcomes.end(), {outcome.loss, outcome.gradient_norm});
    }
    auto add = [&](const std::string& name, const Tensor& tensor) {
      team.run_one([&](Stream& stream) { result.tensors[name] = tensor.host<float>(stream); });
    };
    optimizer.save(team, add);
    add("values", store.values());
    add("statistics", store.statistics());
    return result;
  }
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
};

TEST_P(StepOnRanks, GivesTheBitsOfOneProcess) {
  Result expected;
  on_ranks(1, [&](ThreadRank& self) { expected = train(self, false); });
  EXPECT_GT(expected.outcomes[1], 0.5) << "so that it is clipped";
  for (int64_t ranks : {1, 2, 4, 8})
    for (bool divided : {false, true})
      on_ranks(ranks, [&](ThreadRank& self) {
        EXPECT_TRUE(train(self, divided) == expected) << ranks << " ranks" << (divided ? ", divided" : "");
      });
}

TEST_P(StepOnRanks, ARehearsalLeavesNothing) {
  Result expected;
  on_ranks(1, [&](ThreadRank& self) { expected = train(self, false); });
  on_ranks(2, [&](ThreadRank& self) { EXPECT_TRUE(train(self, false, true) == expected); });
}

using Rule = OptimizerOptions::Rule;
INSTANTIATE_TEST_SUITE_P(All, StepOnRanks,
                         testing::Combine(testing::Values(Rule::sgd, Rule::adamw, Rule::lamb),
                                          testing::Values(DType::f32, DType::bf16)),
                         [](const auto& info) {
                           const Rule rule = std::get<0>(info.param);
                           return std::string(rule == Rule::sgd     ? "sgd_"
                                              : rule == Rule::adamw ? "adamw_"
                                                                    : "lamb_") +
                                  std::string(name(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace taper
