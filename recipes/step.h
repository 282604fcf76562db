#pragma once
// One training step: a batch cut into shards, each through its own tape on a worker, summed in a fixed tree,
// then one update.

#include <functional>
#include <optional>
#include <string>

#include "autograd/collectives.h"
#include "layers/optimizer.h"
#include "recipes/batch.h"

namespace taper {

/// A shard's loss as a sum, and of how many terms: images, masked tokens, tokens that are imitated. A step
/// divides by the terms of all shards together, so shards that differ in them still add up to the whole
/// batch's mean.
struct ShardLoss {
  Tensor sum;  ///< a scalar of accumulator type
  int64_t terms;
};

/// Cross-entropy of a network's logits with the labels, summed over these; of spans that of each end's logits
/// over its sequence; of a regression the squared error of its one output. Spans know no smoothing.
ShardLoss label_loss(Tape& tape, const Var& output, const ShardInput& input, double smoothing);

/// Runs the forward pass of a shard; every loss is a root of the tape.
using Objective = std::function<ShardLoss(Tape&, const ShardInput&)>;

class ShardGraphs;

/// What a step trains, and on what terms.
struct StepContext {
  Team& team;
  Network& network;
  DType type;
  int64_t shards;
  Communicator& ranks = only_rank();  ///< among which the shards are divided
  Reduction reduction = Reduction::exact;
  ShardGraphs* graphs = nullptr;  ///< of the objective's shards; null: each is issued op by op
};

struct StepOutcome {
  double loss = 0;  ///< mean over the batch's terms
  double gradient_norm = 0;
  int64_t skipped = 0;  ///< samples that could not be read, on all ranks
  /// With other ranks, and how long nothing else was done meanwhile.
  CommunicationThread::Times communication = {};
  /// What is not finite, named: the loss, a statistic of the batch, or a gradient. Then nothing was changed.
  std::string non_finite;
};

/// Trains what is trainable in the network. Each rank computes its own shards, and holds its share of the
/// batch; all come to the same outcome. The numbers of ranks and of workers change no bit, unless the
/// reduction is fast.
StepOutcome train_step(const StepContext& context, const Batch& batch, const Objective& objective,
                       Optimizer& optimizer, double lr);

/// Runs the objective, forth and back, on the first of this rank's shards that has samples, and keeps nothing
/// of it: for what is decided when a shape first occurs.
void rehearse(const StepContext& context, const Batch& batch, const Objective& objective);

/// What was not finite, and on which batch.
struct NonFinite {
  std::string what;
  std::unique_ptr<Batch> batch;
};

/// Runs the objective in training mode without training: `count` steps from `batches`, whose mean statistics
/// become the running ones of the norms that are trainable; nothing where the network has none. Stops at a
/// batch whose loss or statistics are not finite, before they have moved anything.
std::optional<NonFinite> estimate_statistics(const StepContext& context, Batches& batches, int64_t count,
                                             const Objective& objective);

/// The sum of all values in a fixed binary tree.
double tree_sum(const std::vector<double>& values);

}  // namespace taper
