#include "recipes/evaluate.h"

#include <chrono>
#include <cmath>

#include "recipes/step.h"

namespace taper {

namespace {
// Samples of one portion: enough to keep a worker busy, few enough for its caches.
constexpr int64_t kPortion = 100;
}  // namespace

void for_each_batch(Team& team, Batches& batches, int64_t count,
                    const std::function<void(Stream&, const Batch&, int64_t)>& task) {
  std::vector<std::unique_ptr<Batch>> round;
  for (int64_t first = 0; first < count; first += static_cast<int64_t>(round.size())) {
    round.clear();
    for (int64_t i = first; i < std::min(count, first + int64_t{4} * team.workers()); ++i)
      round.push_back(batches.next());
    team.run(static_cast<int64_t>(round.size()),
             [&](Stream& stream, int64_t i) { task(stream, *round[static_cast<size_t>(i)], first + i); });
  }
}

namespace {

// What a portion of the samples adds up to.
struct Portion {
  double loss = 0;
  int64_t labels = 0, samples = 0, skipped = 0, items = 0;
  std::vector<int32_t> correct = {0, 0};  // the label is the most probable class; one of the first five
};

double value_of(const Metric& metric, double loss, double top1, double top5) {
  if (metric.key == "perplexity") return std::exp(loss);
  return metric.key == "top5" ? top5 : top1;
}

}  // namespace

Evaluation evaluate(Engine& engine, const Data& data, const Model& model, const Measures& measures) {
  auto begin = std::chrono::steady_clock::now();
  int64_t count = (data.facts().test + kPortion - 1) / kPortion;
  std::unique_ptr<Batches> batches = data.plain_batches(Split::test, kPortion);
  std::vector<Portion> portions(static_cast<size_t>(count));
  for_each_batch(*engine.team, *batches, count, [&](Stream& stream, const Batch& batch, int64_t i) {
    Portion& portion = portions[static_cast<size_t>(i)];
    portion.samples = batch.count;
    portion.skipped = batch.skipped;
    portion.items = batch.items();
    if (batch.count == 0) return;
    Tape tape(*engine.backend, stream, engine.type);
    ShardInput input = batch.upload(tape, 0, batch.count);
    Var logits = model.bridged->forward(tape, input.input);
    portion.labels = input.labels.size();
    portion.loss = cross_entropy(tape, logits, input.labels, 0).host<float>(stream)[0];
    Tensor counts(stream, DType::i32, {2});
    const Tensor& y = logits->value;
    engine.backend->count_correct(stream, y.dim(0), y.dim(1), y.dtype(), y.data(), input.labels.as<int32_t>(),
                                  counts.as<int32_t>());
    portion.correct = counts.host<int32_t>(stream);
  });
  Evaluation result;
  std::vector<double> losses;
  double labels = 0, top1 = 0, top5 = 0, items = 0;
  for (const Portion& portion : portions) {
    losses.push_back(portion.loss);
    result.samples += portion.samples;
    result.skipped += portion.skipped;
    labels += static_cast<double>(portion.labels);
    items += static_cast<double>(portion.items);
    top1 += portion.correct[0];
    top5 += portion.correct[1];
  }
  if (result.samples == 0) throw UserError("none of the {} test images could be read", data.facts().test);
  result.loss = tree_sum(losses) / labels;
  for (const Metric& metric : measures.metrics)
    result.metrics.push_back(value_of(metric, result.loss, top1 / labels, top5 / labels));
  result.items_per_s =
      items / std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace taper
