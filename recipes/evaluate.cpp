#include "recipes/evaluate.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "recipes/step.h"

namespace taper {

namespace {
// Samples of one portion: enough to keep a worker busy, few enough for its caches.
constexpr int64_t kPortion = 100;
}  // namespace

std::vector<double> rows_of_batches(Engine& engine, const Data& data, Split split, int64_t batch_size,
                                    int64_t limit, int64_t width,
                                    const std::function<void(Stream&, const Batch&, double* row)>& task) {
  int64_t samples = limit > 0 ? std::min(limit, data.size(split)) : data.size(split);
  int64_t count = (samples + batch_size - 1) / batch_size, ranks = engine.ranks.ranks();
  // Every rank has as many rows, of which the last ranks' stay empty.
  int64_t each = (count + ranks - 1) / ranks;
  int64_t begin = std::min(count, engine.ranks.rank() * each), end = std::min(count, begin + each);
  std::vector<double> rows(static_cast<size_t>(each * ranks * width));
  std::unique_ptr<Batches> batches = data.plain_batches(split, batch_size, limit, begin);
  std::vector<std::unique_ptr<Batch>> round;
  for (int64_t first = begin; first < end; first += std::ssize(round)) {
    round.clear();
    for (int64_t i = first; i < std::min(end, first + int64_t{4} * engine.team->workers()); ++i)
      round.push_back(batches->next());
    engine.team->run(std::ssize(round), [&](Stream& stream, int64_t i) {
      task(stream, *round[static_cast<size_t>(i)], &rows[static_cast<size_t>((first + i) * width)]);
    });
  }
  engine.ranks.all_gather(std::as_writable_bytes(std::span(rows)));
  rows.resize(static_cast<size_t>(count * width));
  return rows;
}

namespace {

// What Data::score wants of each sample: of labelled text the most probable class, or a regression's number;
// of questions a window's logits.
void predict(Stream& stream, const Tensor& logits, const ShardInput& input, int64_t each, double* predicted) {
  const std::vector<float> values = logits.host<float>(stream);
  if (input.spans) {
    const std::vector<int32_t> offsets = input.sequences->offsets.host<int32_t>(stream);
    for (size_t i = 0; i + 1 < offsets.size(); ++i, predicted += each)
      std::copy(values.begin() + int64_t{2} * offsets[i], values.begin() + int64_t{2} * offsets[i + 1],
                predicted);
    return;
  }
  const int64_t classes = logits.dim(1);
  for (auto row = values.begin(); row != values.end(); row += classes)
    *predicted++ = classes == 1 ? *row : static_cast<double>(std::max_element(row, row + classes) - row);
}

double value_of(const Metric& metric, double loss, double top1, double top5) {
  if (metric.key == "perplexity") return std::exp(loss);
  return metric.key == "top5" ? top5 : top1;
}

}  // namespace

Evaluation evaluate(Engine& engine, const Data& data, const Model& model, const Measures& measures) {
  auto begin = std::chrono::steady_clock::now();
  // What a portion of the samples adds up to. kTop1: the label is the most probable class; kTop5: one of the
  // first five.
  enum Column : uint8_t { kLoss, kLabels, kSamples, kSkipped, kItems, kTop1, kTop5, kColumns };
  const int64_t scored = data.facts().scored();
  const auto width = static_cast<size_t>(kColumns + kPortion * scored);  // what is scored comes behind
  auto fill = [&](Stream& stream, const Batch& batch, double* row) {
    Tape tape(*engine.backend, stream, engine.type);
    ShardInput input = batch.upload(tape, 0, batch.count);
    row[kSamples] = static_cast<double>(input.count);
    row[kSkipped] = static_cast<double>(batch.skipped);
    if (input.count == 0) return;
    Var logits = model.bridged->forward(tape, input.input);
    row[kItems] = static_cast<double>(batch.items());
    auto [loss, terms] = label_loss(tape, logits, input, 0);
    row[kLabels] = static_cast<double>(terms);
    row[kLoss] = loss.host<float>(stream)[0];
    if (scored > 0) return predict(stream, logits->value, input, scored, row + kColumns);
    Tensor counts(stream, DType::i32, {2});
    const Tensor& y = logits->value;
    engine.backend->count_correct(stream, y.dim(0), y.dim(1), y.dtype(), y.data(), input.labels.as<int32_t>(),
                                  counts.as<int32_t>());
    std::vector<int32_t> correct = counts.host<int32_t>(stream);
    row[kTop1] = correct[0];
    row[kTop5] = correct[1];
  };
  std::vector<double> rows =
      rows_of_batches(engine, data, Split::test, kPortion, 0, static_cast<int64_t>(width), fill);
  Evaluation result;
  std::vector<double> losses;
  double labels = 0, top1 = 0, top5 = 0, items = 0;
  std::vector<double> predicted;
  for (size_t row = 0; row < rows.size(); row += width) {
    const auto first = rows.begin() + static_cast<long>(row) + kColumns;
    predicted.insert(predicted.end(), first, first + scored * static_cast<long>(rows[row + kSamples]));
    losses.push_back(rows[row + kLoss]);
    result.samples += static_cast<int64_t>(rows[row + kSamples]);
    result.skipped += static_cast<int64_t>(rows[row + kSkipped]);
    labels += rows[row + kLabels];
    items += rows[row + kItems];
    top1 += rows[row + kTop1];
    top5 += rows[row + kTop5];
  }
  if (result.samples == 0) throw UserError("none of the {} test images could be read", data.facts().test);
  result.loss = tree_sum(losses) / labels;
  if (scored > 0) {
    result.metrics = data.score(predicted);
  } else {
    for (const Metric& metric : measures.metrics)
      result.metrics.push_back(value_of(metric, result.loss, top1 / labels, top5 / labels));
  }
  result.items_per_s =
      items / std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
}

}  // namespace taper
