#pragma once
// What a configuration costs, without training it: FLOPs and memory of every stage, and seconds of a step
// measured on noise. Its data need not be there.

#include <cstdint>
#include <string>

#include "recipes/data.h"
#include "recipes/models.h"

namespace taper {

/// What a dry run must know of the data; `source` becomes where it is from. UserError: the data are not
/// there, and the configuration does not say what they are.
DataFacts facts_without_data(const Configuration& configuration, std::string& source);

struct StageCost {
  std::string stage, network;  ///< the network that is trained
  int64_t units = 1, steps = 0, batch = 0;
  double flops = 0;        ///< of the whole stage, student and teacher
  Cost own = {};           ///< of one sample, of the network that is trained
  int64_t inference = 0;   ///< bytes of the wide network beside it
  int64_t sum_values = 0;  ///< what a shard's gradients and statistics hold, f32

  /// Bytes of a process that holds `held` of the configuration's shards and runs `workers` of them at once:
  /// weights, gradients (about log2(held) + workers buffers are alive), optimizer, packed copies,
  /// activations.
  int64_t memory(const Configuration& configuration, DType type, int64_t held, int64_t workers) const;
};

/// Of a stage that trains.
StageCost stage_cost(const Configuration& configuration, const std::string& name, const DataFacts& data,
                     Engine& engine, Models& models);

/// Training the thin network on noise, timed here.
class TimedStep {
 public:
  TimedStep(const DataFacts& data, Engine& engine, Models& models);
  /// Of one shard, forward and back.
  double shard_flops() const { return shard_flops_; }
  /// Seconds of the faster of two steps of `shards` shards, a power of two, after a first one.
  double seconds(int64_t shards) const;

 private:
  const DataFacts& data_;
  Engine& engine_;
  Model& model_;
  int64_t each_;  // samples of a shard
  double shard_flops_;
};

}  // namespace taper
