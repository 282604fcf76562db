// taper predict: what a network that learnt a task says of new texts.

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "recipes/commands.h"
#include "recipes/labelled_text.h"
#include "recipes/open_run.h"
#include "recipes/text_model.h"
#include "runtime/error.h"

namespace taper {

namespace {

/// The run that learnt the task: inside another, or the one named.
std::filesystem::path run_of(const PredictArguments& arguments) {
  if (arguments.task.empty()) {
    if (!std::filesystem::exists(arguments.run / "tasks")) return arguments.run;
    throw UserError("{} has tasks; say which with --task", arguments.run.string());
  }
  const auto runs = task_runs(arguments.run, arguments.task);
  if (arguments.network.empty()) return runs.front().second;
  for (const auto& [network, folder] : runs)
    if (network == arguments.network) return folder;
  throw UserError("{} has not taught {} to its {} network; only to {}", arguments.run.string(),
                  arguments.task, arguments.network, runs.front().first);
}

}  // namespace

void predict_command(const PredictArguments& arguments) {
  OpenRun run(run_of(arguments), arguments.device);
  const auto* data = dynamic_cast<const LabelledText*>(run.data.get());
  if (data == nullptr)
    throw UserError("{} learns no task from labelled text, so it predicts nothing", run.name);
  run.load("");
  const Network& network = *run.models[run.models.names().front()].network;
  const DataOptions& options = run.configuration.data;
  const bool paired = !example_format(options).pair.empty();
  Tokenizer tokenizer(std::make_shared<const Vocabulary>(read_vocabulary(options.vocabulary)),
                      !options.cased);
  const auto encode = [&](TextBatch& batch, std::string_view line, int64_t number) {
    const size_t tab = line.find('\t');
    if (paired != (tab != std::string_view::npos))
      throw UserError("standard input: line {} {}", number,
                      paired ? "has no tab; this task reads two texts with a tab between them"
                             : "has a tab; this task reads one text a line");
    const std::string text(line.substr(0, tab)), pair(paired ? line.substr(tab + 1) : "");
    if (paired && pair.empty()) throw UserError("standard input: line {} has nothing after its tab", number);
    const TextSequence sequence = make_sequence(tokenizer, text, pair, options.sequence_length);
    constexpr int32_t kUnknown = 0;
    batch.add(number, sequence.words, sequence.types, {}, std::span(&kUnknown, 1));
  };
  const std::vector<std::string>& labels = data->labels();
  read_lines(run.engine, network, encode, [&](const TextBatch& batch, const std::vector<float>& logits) {
    const size_t classes = logits.size() / static_cast<size_t>(batch.count);
    for (size_t i = 0; i < static_cast<size_t>(batch.count); ++i) {
      const std::span<const float> row = std::span(logits).subspan(i * classes, classes);
      nlohmann::ordered_json json = {{"line", batch.samples[i]}};
      if (labels.empty()) {
        json["score"] = row[0];
        fmt::print("{}\n", arguments.json ? json.dump() : fmt::format("{:.4f}", row[0]));
        continue;
      }
      const auto best = static_cast<size_t>(std::ranges::max_element(row) - row.begin());
      double sum = 0;
      for (const float logit : row) sum += std::exp(static_cast<double>(logit) - row[best]);
      json["label"] = labels[best];
      for (size_t k = 0; k < classes; ++k)
        json["probabilities"][labels[k]] = std::exp(static_cast<double>(row[k]) - row[best]) / sum;
      fmt::print("{}\n", arguments.json ? json.dump() : fmt::format("{}\t{:.4f}", labels[best], 1 / sum));
    }
  });
}

}  // namespace taper
