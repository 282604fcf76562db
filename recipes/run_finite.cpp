// What is not finite: found before anything is saved, and traced to where it arose.

#include <algorithm>
#include <cmath>

#include "layers/finite.h"
#include "recipes/run.h"
#include "recipes/step.h"
#include "runtime/error.h"

namespace taper {

namespace {

bool all_finite(Tape& tape, const Tensor& value) {
  Tensor f32(tape.stream, DType::f32, value.shape());
  tape.backend.cast(tape.stream, value.size(), value.dtype(), value.data(), DType::f32, f32.data());
  auto values = f32.host<float>(tape.stream);
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

// The first part of a network, in training mode, whose output holds a NaN or infinity; empty if all are
// finite.
std::string first_non_finite_part(Tape& tape, const BridgedNetwork& model, const Var& input) {
  const Network& network = model.network();
  Var x = model.stem(tape, input);
  if (!all_finite(tape, x->value)) return "the output of the stem";
  size_t unit = 0;
  for (size_t i = 0; i < network.blocks().size(); ++i) {
    auto index = static_cast<int64_t>(i);
    x = network.block(tape, index, x);
    if (!all_finite(tape, x->value)) return "the output of block " + network.blocks()[i].name;
    if (unit < model.units().size() && model.units()[unit].end == index + 1) {
      x = model.cross(tape, static_cast<int64_t>(++unit), x);
      if (!all_finite(tape, x->value))
        return fmt::format("the bridge after block {}", network.blocks()[i].name);
    }
  }
  return all_finite(tape, network.head(tape, x)->value) ? "" : "the logits of the head";
}

}  // namespace

void Run::require_finite_weights(const Job& job) {
  std::string tensor = first_non_finite(*engine_.team, models_[job.network].network->store());
  if (!tensor.empty())
    refuse(job, fmt::format("after step {}", position_.step), tensor, "nothing of it was saved");
}

// Where in the networks a batch first gives a NaN or infinity.
std::string Run::origin(const Job& job, const Batch& batch) {
  std::string place;
  auto look = [&](const std::string& network, bool training) {
    std::string own;
    Range shards = shards_of_rank(job.ranks, engine_.shards);
    engine_.team->run_one([&](Stream& stream) {
      for (int64_t i = shards.begin; i < shards.end && own.empty(); ++i) {
        int64_t begin = i * batch.count / engine_.shards, end = (i + 1) * batch.count / engine_.shards;
        Tape tape(*engine_.backend, stream, engine_.type);
        tape.training = training;
        ShardInput input = batch.upload(tape, begin, end);
        if (input.count == 0) continue;
        own = first_non_finite_part(tape, *models_[network].bridged, input.input);
      }
    });
    // The first shard's, on whichever rank.
    for (const std::string& found : job.ranks.all_gather(own))
      if (place.empty() && !found.empty())
        place.append(found).append(" of the ").append(network).append(" network");
  };
  if (job.teacher_flops > 0) look("wide", false);
  if (place.empty()) look(job.network, true);
  return place.empty() ? "every block's output is finite, so it arose in the loss or on the way back"
                       : "it first appears in " + place;
}

void Run::refuse(const Job& job, const std::string& when, const std::string& what,
                 const std::string& remark) const {
  throw Failure(
      "stage {}{}, {}: {} is not finite; {}. The last checkpoint is whole. A lower {}.lr, {}.clip_norm or a "
      "longer warm-up usually cures it",
      stage(), unit_name(job), when, what, remark, stage(), stage());
}

}  // namespace taper
