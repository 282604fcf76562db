#include "recipes/step.h"

#include <cmath>
#include <utility>

#include "layers/finite.h"
#include "recipes/shard_graphs.h"

namespace taper {

ShardLoss label_loss(Tape& tape, const Var& output, const ShardInput& input, double smoothing) {
  if (input.scores.defined()) return {squared_error(tape, output, input.scores), input.count};
  if (input.spans)
    return {span_cross_entropy(tape, output, *input.sequences, input.labels), input.labels.size()};
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
  std::vector<double> losses, terms;  // of each shard
  std::vector<int64_t> skipped;       // of each rank
};

// What to do with a part of the gradients, summed over all ranks, while others are still under way. Each rank
// has all of them, or with a division its own.
using Arrived = std::function<void(const Tensor& gradients, const Range& part)>;

// Sums this rank's shards. Their gradients, if there is something to do with them, go to `exchange` bucket by
// bucket as soon as no shard adds to them any more; or they stay here, where it is null.
void sum_shards(const StepContext& c, const Batch& batch, const Objective& objective, bool backward,
                const std::vector<Range>& buckets, BucketSums* exchange, Summed& result) {
  const ParameterStore& store = c.network.store();
  Range own = shards_of_rank(c.ranks, c.shards);
  ShardTree tree(c.team.backend(), c.type, own.size(), backward ? store.value_size() : 0,
                 store.statistic_size(), buckets,
                 [&](int64_t bucket, const Tensor& gradients) { exchange->ready(bucket, gradients); });
  c.team.run(own.size(), [&](Stream& stream, int64_t index) {
    int64_t i = own.begin + index;
    ShardSums sums = tree.make(stream);
    size_t next = 0;  // bucket to hand in
    auto hand_in = [&](const Tape::Pending& pending) {
      for (; next < buckets.size(); ++next) {
        auto first = pending.lower_bound(buckets[next].begin);
        if (first != pending.end() && first->first < buckets[next].end) return;
        tree.finish_bucket(stream, index, sums, static_cast<int64_t>(next));
      }
    };
    int64_t begin = i * batch.count / c.shards, end = (i + 1) * batch.count / c.shards;
    if (begin < end) {
      Tape tape(c.team.backend(), stream, c.type, &sums);
      tape.training = true;
      if (ShardInput input = batch.upload(tape, begin, end); input.count > 0) {
        if (!buckets.empty()) tape.on_progress = hand_in;
        auto [loss, count] =
            backward && c.graphs ? c.graphs->run(tape, sums, input, objective) : objective(tape, input);
        if (backward) tape.backward();  // behind a graph there is nothing left
        result.losses[static_cast<size_t>(i)] =
            loss.dtype() == DType::f64 ? loss.host<double>(stream)[0] : loss.host<float>(stream)[0];
        result.terms[static_cast<size_t>(i)] = static_cast<double>(count);
      }
    }
    hand_in({});  // all, of a shard that had nothing to learn from, or that a graph has run
    tree.finish(stream, index, std::move(sums));
  });
  result.sums = tree.total(c.team);
}

// One pass over a batch; with gradients only if there is something to do with them. Of one rank, they are all
// there in the end only: `arrived` is not called.
Summed run_shards(const StepContext& c, const Batch& batch, const Objective& objective,
                  const Arrived& arrived, const std::shared_ptr<const Division>& division = nullptr) {
  // Shared with what the communication thread may still be doing where this ends with an exception.
  auto result = std::make_shared<Summed>();
  result->losses.resize(static_cast<size_t>(c.shards));
  result->terms.resize(static_cast<size_t>(c.shards));
  result->skipped.resize(static_cast<size_t>(c.ranks.ranks()));
  result->skipped[static_cast<size_t>(c.ranks.rank())] = batch.skipped;
  if (c.ranks.ranks() == 1) {
    sum_shards(c, batch, objective, arrived != nullptr, {}, nullptr, *result);
    return std::move(*result);
  }
  std::vector<Range> buckets;
  if (arrived) buckets = gradient_buckets(c.network.store());
  BucketSums exchange(c.ranks, c.team, buckets, division, c.reduction);
  sum_shards(c, batch, objective, arrived != nullptr, buckets, &exchange, *result);
  CommunicationThread& thread = c.team.communication();
  int64_t rest = thread.post(
      [result, reduction = c.reduction, &ranks = c.ranks, &backend = c.team.backend()](Stream& stream) {
        all_reduce_statistics(ranks, backend, stream, result->sums, reduction);
        ranks.all_gather(std::as_writable_bytes(std::span(result->losses)));
        ranks.all_gather(std::as_writable_bytes(std::span(result->terms)));
        ranks.all_gather(std::as_writable_bytes(std::span(result->skipped)));
      });
  Tensor gradients = result->sums.gradients;
  for (size_t i = 0; i < buckets.size(); ++i) {
    arrived(gradients, exchange.wait(static_cast<int64_t>(i)));
  }
  thread.wait(rest);
  return std::move(*result);
}

std::string non_finite(const StepContext& c, const Summed& summed) {
  if (!std::isfinite(tree_sum(summed.losses))) return "the loss";
  std::string statistic = first_non_finite(c.team, c.network, summed.sums);
  return statistic.empty() ? "" : "the batch's " + statistic;
}

}  // namespace

StepOutcome train_step(const StepContext& c, const Batch& batch, const Objective& objective,
                       Optimizer& optimizer, double lr) {
  StepOutcome outcome;
  const bool alone = c.ranks.ranks() == 1;
  if (!alone) c.team.communication().take_times();   // of what was done between steps
  if (c.graphs) refresh(c.team, c.network.store());  // what was changed between steps, which graphs only read
  std::vector<double> squares;
  auto measure = [&](const Tensor& gradients, const Range& part) {
    optimizer.measure(c.team, gradients, part, squares);
  };
  Summed summed = run_shards(c, batch, objective, measure, optimizer.division());
  const double terms = tree_sum(summed.terms);
  for (int64_t count : summed.skipped) outcome.skipped += count;
  if (terms == 0) return outcome;
  outcome.loss = tree_sum(summed.losses) / terms;
  outcome.non_finite = non_finite(c, summed);
  if (!outcome.non_finite.empty()) return outcome;
  Optimizer::Outcome update = optimizer.step(c.team, summed.sums.gradients, terms, lr, std::move(squares));
  if (!alone) outcome.communication = c.team.communication().take_times();
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

void rehearse(const StepContext& c, const Batch& batch, const Objective& objective) {
  const ParameterStore& store = c.network.store();
  const ShardTree tree(c.team.backend(), c.type, 1, store.value_size(), store.statistic_size());
  const Range own = shards_of_rank(c.ranks, c.shards);
  c.team.run_one([&](Stream& stream) {
    for (int64_t i = own.begin; i < own.end; ++i) {
      const int64_t begin = i * batch.count / c.shards, end = (i + 1) * batch.count / c.shards;
      if (begin == end) continue;
      ShardSums sums = tree.make(stream);
      Tape tape(c.team.backend(), stream, c.type, &sums);
      tape.training = true;
      const ShardInput input = batch.upload(tape, begin, end);
      if (input.count == 0) continue;
      objective(tape, input);
      return tape.backward();
    }
  });
}

std::optional<NonFinite> estimate_statistics(const StepContext& c, Batches& batches, int64_t count,
                                             const Objective& objective) {
  if (c.network.norms().empty()) return std::nullopt;
  int64_t seen = 0;
  for (int64_t i = 0; i < count; ++i) {
    std::unique_ptr<Batch> batch = batches.next();
    Summed summed = run_shards(c, *batch, objective, nullptr);
    if (tree_sum(summed.terms) == 0) continue;  // every sample was left out
    if (std::string what = non_finite(c, summed); !what.empty())
      return NonFinite{std::move(what), std::move(batch)};
    update_statistics(c.team, c.network, summed.sums, 1.0 / static_cast<double>(++seen));
  }
  return std::nullopt;
}

}  // namespace taper
