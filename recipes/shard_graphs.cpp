#include "recipes/shard_graphs.h"

namespace taper {

ShardLoss ShardGraphs::run(Tape& tape, ShardSums& sums, const ShardInput& input, const Objective& objective) {
  TAPER_CHECK(!input.sequences && !input.scores.defined(), "graphs are for images");
  Stream& stream = tape.stream;
  const Tensor& images = input.input->value;
  std::unique_lock lock(mutex_);
  Shard& shard = shards_[{&stream, images.shape()}];
  if (!shard.graph) {
    lock.unlock();
    ShardLoss loss = objective(tape, input);
    tape.backward();
    // One capture at a time: each begins by giving memory back, which waits for the device, and no such call
    // should fall into the capture of another thread.
    lock.lock();
    capture(shard, tape, sums, input, objective);
    return loss;
  }
  lock.unlock();
  stream.copy(shard.images.data(), images.data(), images.bytes());
  stream.copy(shard.labels.data(), input.labels.data(), input.labels.bytes());
  shard.graph->launch();
  if (sums.gradients.defined())
    stream.copy(sums.gradients.data(), shard.sums.gradients.data(), sums.gradients.bytes());
  if (sums.statistics.defined())
    stream.copy(sums.statistics.data(), shard.sums.statistics.data(), sums.statistics.bytes());
  sums.reports = shard.sums.reports;
  return shard.loss;
}

void ShardGraphs::capture(Shard& shard, const Tape& tape, const ShardSums& sums, const ShardInput& input,
                          const Objective& objective) {
  Stream& stream = tape.stream;
  auto like = [&](const Tensor& tensor) { return Tensor(stream, tensor.dtype(), tensor.shape()); };
  auto zeroed = [&](const Tensor& tensor) {
    return tensor.defined() ? Tensor::zeros(stream, tensor.dtype(), tensor.shape()) : Tensor();
  };
  shard.graph = stream.capture([&] {
    shard.images = like(input.input->value);
    shard.labels = like(input.labels);
    shard.sums = {zeroed(sums.gradients), zeroed(sums.statistics)};
    Tape own(tape.backend, stream, tape.type, &shard.sums);
    own.training = true;
    const ShardInput fixed{.input = own.constant(shard.images), .labels = shard.labels, .count = input.count};
    shard.loss = objective(own, fixed);
    own.backward();
  });
}

}  // namespace taper
