// taper predict: what a network that learnt a task says of new texts.

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "recipes/commands.h"
#include "recipes/labelled_text.h"
#include "recipes/open_run.h"
#include "recipes/questions.h"
#include "recipes/text/lines.h"
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

/// The two parts of a line with a tab between them; `what` they are.
std::pair<std::string, std::string> split_line(std::string_view line, int64_t number, const char* what) {
  const size_t tab = line.find('\t');
  if (tab == std::string_view::npos || line.find('\t', tab + 1) != std::string_view::npos)
    throw UserError("standard input: line {} has {}; this task reads {} with a tab between them", number,
                    tab == std::string_view::npos ? "no tab" : "several tabs", what);
  std::pair<std::string, std::string> parts(line.substr(0, tab), line.substr(tab + 1));
  if (parts.first.empty() || parts.second.empty())
    throw UserError("standard input: line {} has nothing {} its tab", number,
                    parts.first.empty() ? "before" : "after");
  return parts;
}

void predict_labels(OpenRun& run, const Network& network, Tokenizer& tokenizer, bool as_json) {
  const std::vector<std::string>& labels = run.facts.labels;
  const DataOptions& options = run.configuration.data;
  const bool paired = !example_format(options).pair.empty();
  const auto encode = [&](TextBatch& batch, std::string_view line, int64_t number) {
    if (!paired && line.find('\t') != std::string_view::npos)
      throw UserError("standard input: line {} has a tab; this task reads one text a line", number);
    const auto [text, pair] =
        paired ? split_line(line, number, "two texts") : std::pair(std::string(line), std::string());
    const TextSequence sequence = make_sequence(tokenizer, text, pair, options.sequence_length);
    constexpr int32_t kUnknown = 0;
    batch.add(number, sequence.words, sequence.types, {}, std::span(&kUnknown, 1));
  };
  read_lines(run.engine, network, encode, [&](const TextBatch& batch, const std::vector<float>& logits) {
    const size_t classes = logits.size() / static_cast<size_t>(batch.count);
    for (size_t i = 0; i < static_cast<size_t>(batch.count); ++i) {
      const std::span<const float> row = std::span(logits).subspan(i * classes, classes);
      nlohmann::ordered_json json = {{"line", batch.samples[i]}};
      if (labels.empty()) {
        json["score"] = row[0];
        fmt::print("{}\n", as_json ? json.dump() : fmt::format("{:.4f}", row[0]));
        continue;
      }
      const auto best = static_cast<size_t>(std::ranges::max_element(row) - row.begin());
      double sum = 0;
      for (const float logit : row) sum += std::exp(static_cast<double>(logit) - row[best]);
      json["label"] = labels[best];
      for (size_t k = 0; k < classes; ++k)
        json["probabilities"][labels[k]] = std::exp(static_cast<double>(row[k]) - row[best]) / sum;
      fmt::print("{}\n", as_json ? json.dump() : fmt::format("{}\t{:.4f}", labels[best], 1 / sum));
    }
  });
}

// Questions of a portion, and windows of a batch: each keeps a worker busy for a while.
constexpr int64_t kQuestions = 64, kWindows = 16;

void predict_answers(OpenRun& run, const Network& network, Tokenizer& tokenizer, bool as_json) {
  const DataOptions& options = run.configuration.data;
  LineReader reader(stdin, "standard input", InvalidText::refuse);
  int64_t answered = 0;
  std::vector<std::pair<SquadQuestion, std::vector<SquadWindow>>> portion;
  const auto finish = [&] {
    std::vector<TextBatch> batches;
    for (const auto& [question, windows] : portion)
      for (const SquadWindow& window : windows) {
        if (batches.empty() || batches.back().count == kWindows) batches.emplace_back();
        add_window(batches.back(), 0, window);
      }
    std::vector<std::vector<float>> logits;  // of each window, whatever batch it was in
    const std::vector<std::vector<float>> results = run_batches(run.engine, network, batches);
    for (size_t b = 0; b < batches.size(); ++b)
      for (size_t i = 0; i < static_cast<size_t>(batches[b].count); ++i)
        logits.emplace_back(results[b].begin() + 2 * batches[b].offsets[i],
                            results[b].begin() + 2 * batches[b].offsets[i + 1]);
    std::span<const std::vector<float>> rest = logits;
    for (const auto& [question, windows] : portion) {
      const SquadPrediction found = best_answer(question, windows, rest.first(windows.size()),
                                                squad_options(options), may_be_unanswerable(options));
      rest = rest.subspan(windows.size());
      const nlohmann::ordered_json json = {
          {"line", ++answered}, {"answer", found.text}, {"probability", found.probability}};
      fmt::print("{}\n", as_json ? json.dump() : fmt::format("{}\t{:.4f}", found.text, found.probability));
    }
    portion.clear();
    if (std::fflush(stdout) != 0) throw Failure("standard output could not be written");
  };
  for (std::string_view line; reader.next(line);) {
    auto [question, context] = split_line(line, reader.lines(), "a question and its context");
    SquadQuestion read{.id = {},
                       .question = std::move(question),
                       .context = std::make_shared<const std::string>(std::move(context)),
                       .answers = {}};
    std::vector<SquadWindow> windows = make_windows(read, tokenizer, squad_options(options));
    portion.emplace_back(std::move(read), std::move(windows));
    if (std::ssize(portion) == kQuestions) finish();
  }
  if (!portion.empty()) finish();
}

}  // namespace

void predict_command(const PredictArguments& arguments) {
  OpenRun run(run_of(arguments), arguments.device);
  const DataOptions& options = run.configuration.data;
  if (!options.labelled() && !options.questions())
    throw UserError("{} learns no task from labelled text or questions, so it predicts nothing", run.name);
  const Network& network = *run.models[run.models.names().front()].network;
  Tokenizer tokenizer(vocabulary_of(run.configuration, run.facts), !options.cased);
  if (options.questions()) return predict_answers(run, network, tokenizer, arguments.json);
  predict_labels(run, network, tokenizer, arguments.json);
}

}  // namespace taper
