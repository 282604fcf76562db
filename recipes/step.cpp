#include "recipes/step.h"

#include <cmath>
#include <utility>

#include "layers/finite.h"

namespace taper {

ShardLoss label_loss(Tape& tape, const Var& output, const ShardInput& input, double smoothing) {
  if (input.scores.defined()) return {squared_error(tape, output, input.scores), input.count};
  return {cross_entropy(tape, output, input.labels, smoothing), input.labels.size()};
}

double tree_sum(const std::vector<double>& values) {
  std::vector<double> sums = values;
  for (size_t width = 1; width < sums.size(); width *= 2)
    for (size_t i = 0; i + width < sums.size(); i += 2 * width) sums[i] += sums[i + width];
  return sums.empty() ? 0 : sums[0];
}

namespace {

struct Summed {
  ShardSums sums;
  double loss = 0, terms = 0;
  int64_t skipped = 0;
};

// One pass over a batch; with gradients only if `backward`.
Summed run_shards(const StepContext& c, const Batch& batch, const Objective& objective, bool backward) {
  const ParameterStore& store = c.network.store();
  Range own = shards_of_rank(c.ranks, c.shards);
  ShardTree tree(c.team.backend(), c.type, own.end - own.begin, backward ? store.value_size() : 0,
                 store.statistic_size());
  std::vector<double> losses(static_cast<size_t>(c.shards)), terms = losses;
  c.team.run(own.end - own.begin, [&](Stream& stream, int64_t index) {
    int64_t i = own.begin + index;
    ShardSums sums = tree.make(stream);
    int64_t begin = i * batch.count / c.shards, end = (i + 1) * batch.count / c.shards;
    if (begin < end) {
      Tape tape(c.team.backend(), stream, c.type, &sums);
      tape.training = true;
      if (ShardInput input = batch.upload(tape, begin, end); input.count > 0) {
        auto [loss, count] = objective(tape, input);
        if (backward) tape.backward();
        losses[static_cast<size_t>(i)] =
            loss.dtype() == DType::f64 ? loss.host<double>(stream)[0] : loss.host<float>(stream)[0];
        terms[static_cast<size_t>(i)] = static_cast<double>(count);
      }
    }
    tree.finish(stream, index, std::move(sums));
  });
  Summed result{tree.total(c.team)};
  all_reduce(c.ranks, c.team, result.sums);
  std::vector<int64_t> skipped(static_cast<size_t>(c.ranks.ranks()));
  skipped[static_cast<size_t>(c.ranks.rank())] = batch.skipped;
  c.ranks.all_gather(std::as_writable_bytes(std::span(losses)));
  c.ranks.all_gather(std::as_writable_bytes(std::span(terms)));
  c.ranks.all_gather(std::as_writable_bytes(std::span(skipped)));
  result.loss = tree_sum(losses);
  result.terms = tree_sum(terms);
  for (int64_t count : skipped) result.skipped += count;
  return result;
}

std::string non_finite(const StepContext& c, const Summed& summed) {
  if (!std::isfinite(summed.loss)) return "the loss";
  std::string statistic = first_non_finite(c.team, c.network, summed.sums);
  return statistic.empty() ? "" : "the batch's " + statistic;
}

}  // namespace

StepOutcome train_step(const StepContext& c, const Batch& batch, const Objective& objective,
                       Optimizer& optimizer, double lr) {
  StepOutcome outcome;
  Summed summed = run_shards(c, batch, objective, true);
  outcome.skipped = summed.skipped;
  if (summed.terms == 0) return outcome;
  outcome.loss = summed.loss / summed.terms;
  outcome.non_finite = non_finite(c, summed);
  if (!outcome.non_finite.empty()) return outcome;
  Optimizer::Outcome update = optimizer.step(c.team, summed.sums.gradients, summed.terms, lr);
  outcome.gradient_norm = update.gradient_norm;
  if (!update.non_finite.empty()) {
    outcome.non_finite = "the gradient of " + update.non_finite;
    return outcome;
  }
  update_statistics(c.team, c.network, summed.sums);
  optimizer.average(c.team);
  refresh(c.team, c.network.store());
  return outcome;
}

std::optional<NonFinite> estimate_statistics(const StepContext& c, Batches& batches, int64_t count,
                                             const Objective& objective) {
  if (c.network.norms().empty()) return std::nullopt;
  int64_t seen = 0;
  for (int64_t i = 0; i < count; ++i) {
    std::unique_ptr<Batch> batch = batches.next();
    Summed summed = run_shards(c, *batch, objective, false);
    if (summed.terms == 0) continue;  // every sample was left out
    if (std::string what = non_finite(c, summed); !what.empty())
      return NonFinite{std::move(what), std::move(batch)};
    update_statistics(c.team, c.network, summed.sums, 1.0 / static_cast<double>(++seen));
  }
  return std::nullopt;
}

}  // namespace taper
