// Layer-wise decay of the learning rate.

#include <gtest/gtest.h>

#include <cmath>

#include "layers/bert.h"
#include "layers/optimizer.h"
#include "layers/weights.h"
#include "recipes/models.h"

namespace taper {
namespace {

std::unique_ptr<Network> small_bert() {
  return make_bert(
      {.vocabulary = 9, .positions = 4, .hidden = 8, .layers = 3, .heads = 2, .intermediate = 12});
}

double expected_rate(const std::string& name, double decay) {
  if (name.starts_with("cls.")) return 1;
  if (!name.starts_with("bert.encoder.layer.")) return std::pow(decay, 4);
  return std::pow(decay, 3 - (name[std::string("bert.encoder.layer.").size()] - '0'));
}

TEST(LayerDecay, FallsFromTheHeadToTheStem) {
  std::unique_ptr<Network> network = small_bert();
  set_layer_rates(*network, 0.5);
  for (const Parameter& p : network->store().all()) EXPECT_EQ(p.rate, expected_rate(p.name, 0.5)) << p.name;
  set_layer_rates(*network, 1);
  for (const Parameter& p : network->store().all()) EXPECT_EQ(p.rate, 1) << p.name;
}

// A step moves each tensor as a step with its own rate moves it, whatever the rule; any number of workers.
TEST(LayerDecay, AStepTakesEachTensorsRate) {
  using Rule = OptimizerOptions::Rule;
  for (Rule rule : {Rule::sgd, Rule::adamw, Rule::lamb}) {
    auto step = [&](double decay, double lr, int workers) {
      std::unique_ptr<Backend> backend = make_cpu_backend();
      Team team(*backend, workers, 1);
      std::unique_ptr<Network> network = small_bert();
      std::vector<std::vector<double>> values;
      set_layer_rates(*network, decay);
      ParameterStore& store = network->store();
      Tensor gradients;
      team.run_one([&](Stream& stream) {
        store.allocate(stream, DType::f32);
        initialize_bert(*network, stream, 5, 0.5);
        std::vector<float> slopes;
        for (int64_t i = 0; i < store.value_size(); ++i)
          slopes.push_back(static_cast<float>(std::sin(static_cast<double>(i))));
        gradients = Tensor::from<float>(stream, {store.value_size()}, slopes);
      });
      Optimizer optimizer(team, store, {.rule = rule, .weight_decay = 0.1});
      optimizer.step(team, gradients, 2, lr);
      team.run_one([&](Stream& stream) {
        for (const Parameter& p : store.all()) values.push_back(host_values(stream, p));
      });
      return values;
    };
    const auto decayed = step(0.5, 0.01, 1);
    EXPECT_EQ(step(0.5, 0.01, 3), decayed);
    std::unique_ptr<Network> network = small_bert();
    const std::vector<double> rates{1, 0.5, 0.25, 0.125, 0.0625};
    for (double rate : rates) {
      const auto alone = step(1, 0.01 * rate, 1);
      for (size_t i = 0; i < alone.size(); ++i) {
        const std::string& name = network->store().all()[i].name;
        EXPECT_TRUE(expected_rate(name, 0.5) != rate || decayed[i] == alone[i]) << name;
      }
    }
  }
}

}  // namespace
}  // namespace taper
