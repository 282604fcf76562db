#pragma once
// One training step: a batch cut into shards, each through its own tape on a worker, summed in a fixed tree,
// then one update.

#include <functional>
#include <optional>
#include <string>

#include "autograd/shards.h"
#include "layers/optimizer.h"
#include "recipes/data/loader.h"

namespace taper {

/// A shard of a batch on the device.
struct ShardInput {
  Var images;     ///< [count, h, w, channels], of the activations' type
  Tensor labels;  ///< [count], i32
  int64_t count;
};

/// Rows [begin, end) of a batch.
ShardInput upload(Tape& tape, const Batch& batch, int64_t begin, int64_t end, int64_t image_size,
                  int64_t channels);

/// Runs the forward pass of a shard and returns its loss, summed over its samples; every loss is a root of
/// the tape.
using Objective = std::function<Tensor(Tape&, const ShardInput&)>;

/// What a step trains, and on what terms.
struct StepContext {
  Team& team;
  Network& network;
  DType type;
  int64_t shards;
  int64_t image_size, channels;
};

struct StepOutcome {
  double loss = 0;  ///< mean over the batch
  double gradient_norm = 0;
  /// What is not finite, named: the loss, a statistic of the batch, or a gradient. Then nothing was changed.
  std::string non_finite;
};

/// Trains what is trainable in the network. The number of workers changes no bit.
StepOutcome train_step(const StepContext& context, const Batch& batch, const Objective& objective,
                       Optimizer& optimizer, double lr);

/// What was not finite, and on which batch.
struct NonFinite {
  std::string what;
  Batch batch;
};

/// Runs the objective in training mode without training: `batches` steps from `loader`, whose mean statistics
/// become the running ones of the norms that are trainable. Stops at a batch whose loss or statistics are not
/// finite, before they have moved anything.
std::optional<NonFinite> estimate_statistics(const StepContext& context, Loader& loader, int64_t batches,
                                             const Objective& objective);

/// The sum of all values in a fixed binary tree.
double tree_sum(const std::vector<double>& values);

}  // namespace taper
