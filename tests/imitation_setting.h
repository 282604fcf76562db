#pragma once
// What tests of imitation share: a wide and a thin network on a few real images, ready to imitate.

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "recipes/imitation.h"

namespace taper {

using Bytes = std::map<std::string, std::vector<double>>;

/// The tiny configuration on 64 images, at half its width, with random weights that differ.
struct ImitationSetting {
  explicit ImitationSetting(std::vector<std::string> overrides = {})
      : ImitationSetting(read(std::move(overrides))) {}
  explicit ImitationSetting(Configuration chosen)
      : configuration(std::move(chosen)),
        data(open_data(configuration)),
        engine(configuration),
        models(configuration, engine, data->facts()),
        wide(models.make("wide", false)),
        thin(models.make("thin", true)),
        imitation(configuration, engine, *data, thin, wide) {
    // The same seed gives both stems the same values: move the wide network's.
    engine.team->run_one([&](Stream& stream) {
      for (Parameter& p : wide.network->store().all()) {
        std::vector<double> values = host_values(stream, p);
        for (double& v : values) v = 1.25 * v + (p.role == Role::norm_bias ? 0.125 : 0);
        set_values(stream, p, values);
      }
    });
    imitation.initialize();
  }

  static Configuration read(std::vector<std::string> overrides) {
    std::vector<std::string> all{"data.train_limit=64", "data.test_limit=64", "network.width=4", "seed=3"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    return read_configuration(TAPER_SOURCE_DIR "/recipes/configurations/tiny-resnet.toml", all);
  }

  StepContext context() { return {*engine.team, *thin.network, engine.type, engine.shards}; }
  std::unique_ptr<Batches> batches(int64_t count) {
    return data->train_batches(configuration.imitate, 7, 0, count);
  }

  /// Steps of SGD on targets that are selected.
  void train(Targets targets, int64_t steps) {
    Optimizer optimizer(*engine.team, thin.network->store(),
                        {.nesterov = true, .weight_decay = 1e-3, .ema_decay = 0.5});
    std::unique_ptr<Batches> loader = batches(steps);
    Objective objective = imitation.objective(targets, imitation.input());
    for (int64_t i = 0; i < steps; ++i) {
      StepOutcome outcome = train_step(context(), *loader->next(), objective, optimizer, 0.01);
      ASSERT_EQ(outcome.non_finite, "");
    }
    optimizer.swap_average(*engine.team);
  }

  /// The loss on the first batch of training, for each sample.
  double loss(Targets targets, Imitation::Input input, bool training = false) {
    std::unique_ptr<Batch> batch = batches(1)->next();
    double result = 0;
    engine.team->run_one([&](Stream& stream) {
      Tape tape(*engine.backend, stream, engine.type);
      tape.training = training;
      ShardInput shard = batch->upload(tape, 0, batch->count);
      result = imitation.objective(targets, input)(tape, shard).sum.host<float>(stream)[0];
    });
    return result / static_cast<double>(batch->count);
  }

  Bytes values(const Network& network) {
    Bytes result;
    engine.team->run_one([&](Stream& stream) {
      for (const Parameter& p : network.store().all()) result[p.name] = host_values(stream, p);
    });
    return result;
  }
  std::vector<double> values(const Network& network, const std::string& name) {
    return values(network).at(name);
  }
  void set(const std::string& name, const std::vector<double>& to) {
    engine.team->run_one([&](Stream& stream) { set_values(stream, *thin.network->store().find(name), to); });
  }
  std::set<std::string> trainable() {
    std::set<std::string> names;
    for (const Parameter& p : thin.network->store().all())
      if (p.trainable) names.insert(p.name);
    return names;
  }

  Configuration configuration;
  std::unique_ptr<Data> data;
  Engine engine;
  Models models;
  Model &wide, &thin;
  Imitation imitation;
};

/// Widened in full, by tied and by free bridges.
inline const std::vector<std::string> kTied{"widen.kind=full"};
inline const std::vector<std::string> kFree{"widen.kind=full", "imitate.bridges=free", "network.kind=plain"};

inline std::vector<std::string> with(std::vector<std::string> overrides, const std::string& more) {
  overrides.push_back(more);
  return overrides;
}

}  // namespace taper
