#pragma once
// Shards as graphs: a pass whose kernels and shapes are the same in every step is issued once.

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "recipes/step.h"

namespace taper {

/// The forward and backward passes of one objective's shards, as graphs: one for each worker's stream and
/// shape of a shard's images. A graph holds its own images, labels, activations, sums and loss, so that it
/// serves any shard of its worker, and is launched on the images of one after the other.
///
/// The objective must issue the same work for all shards of a shape, whatever their values, and take nothing
/// from the host but what is the same in all steps: no text, whose tokens differ in number, and no dropout,
/// whose draws are arguments of kernels. It may read derived copies of any network; those of networks other
/// than the one that is trained must not change while this lives.
class ShardGraphs {
 public:
  /// Adds to `sums`, zeroed and the tape's, what objective and tape.backward() would; gives the same loss.
  /// The first time of a stream and shape it does just that, on `tape`, and captures a graph besides: derived
  /// copies are there then. `tape` has nothing left to walk.
  ShardLoss run(Tape& tape, ShardSums& sums, const ShardInput& input, const Objective& objective);

 private:
  struct Shard {
    Tensor images, labels;
    ShardSums sums;
    ShardLoss loss = {};
    std::unique_ptr<Graph> graph;
  };
  void capture(Shard& shard, const Tape& tape, const ShardSums& sums, const ShardInput& input,
               const Objective& objective);
  std::mutex mutex_;
  std::map<std::pair<const Stream*, Shape>, Shard> shards_;
};

}  // namespace taper
