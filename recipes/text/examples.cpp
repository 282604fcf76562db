#include "recipes/text/examples.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "recipes/text/metrics.h"
#include "runtime/error.h"

namespace taper {

namespace {

struct GlueTask {
  std::string_view name;
  ExampleFormat format;
};

const std::vector<GlueTask>& glue_tasks() {
  using enum TaskMetric;
  static const std::vector<std::string> kNumbers = {"0", "1"}, kEntailment = {"entailment", "not_entailment"};
  static const std::vector<GlueTask> kTasks = {
      {"cola", {.header = false, .text = "4", .label = "2", .labels = kNumbers, .metrics = {matthews}}},
      {"sst-2", {.text = "sentence", .labels = kNumbers, .metrics = {accuracy}}},
      {"mrpc",
       {.text = "#1 String",
        .pair = "#2 String",
        .label = "Quality",
        .labels = kNumbers,
        .metrics = {f1_binary, accuracy}}},
      {"sts-b",
       {.text = "sentence1",
        .pair = "sentence2",
        .label = "score",
        .regression = true,
        .metrics = {pearson, spearman}}},
      {"qqp",
       {.text = "question1",
        .pair = "question2",
        .label = "is_duplicate",
        .labels = kNumbers,
        .metrics = {f1_binary, accuracy}}},
      {"mnli",
       {.text = "sentence1",
        .pair = "sentence2",
        .label = "gold_label",
        .labels = {"entailment", "neutral", "contradiction"},
        .metrics = {accuracy}}},
      {"qnli", {.text = "question", .pair = "sentence", .labels = kEntailment, .metrics = {accuracy}}},
      {"rte", {.text = "sentence1", .pair = "sentence2", .labels = kEntailment, .metrics = {accuracy}}},
  };
  return kTasks;
}

double parse_score(const std::string& text, const TableReader& reader, const std::string& column) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || !std::isfinite(value))
    throw UserError("{}: line {}, column \"{}\": \"{}\" is not a number, as a regression needs",
                    reader.name(), reader.line(), column, text);
  return value;
}

}  // namespace

std::string_view name(TaskMetric metric) {
  switch (metric) {
    case TaskMetric::accuracy:
      return "accuracy";
    case TaskMetric::f1_binary:
      return "f1";
    case TaskMetric::f1_macro:
      return "f1_macro";
    case TaskMetric::matthews:
      return "matthews";
    case TaskMetric::pearson:
      return "pearson";
    case TaskMetric::spearman:
      return "spearman";
  }
  throw Failure("there is no metric {}", static_cast<int>(metric));
}

std::optional<ExampleFormat> glue_format(std::string_view task) {
  for (const GlueTask& known : glue_tasks())
    if (known.name == task) return known.format;
  return std::nullopt;
}

std::vector<Example> read_examples(const std::filesystem::path& path, const ExampleFormat& format,
                                   std::vector<std::string>& labels) {
  TableReader reader(path, format.separator, format.header);
  const bool paired = !format.pair.empty();
  const size_t text = reader.column(format.text), pair = paired ? reader.column(format.pair) : 0,
               label = reader.column(format.label);
  std::vector<Example> examples;
  std::vector<std::string> cells, names;
  while (reader.next(cells)) {
    Example& example = examples.emplace_back();
    if (format.regression)
      example.score = parse_score(cells[label], reader, format.label);
    else if (labels.empty())
      names.push_back(cells[label]);
    else if (const auto found = std::ranges::find(labels, cells[label]); found != labels.end())
      example.label = static_cast<int32_t>(found - labels.begin());
    else
      throw UserError("{}: line {}, column \"{}\": \"{}\" is not one of the labels {}", reader.name(),
                      reader.line(), format.label, cells[label], fmt::join(labels, ", "));
    for (const auto& [column, at] : {std::pair(&format.text, text), std::pair(&format.pair, pair)})
      if (!column->empty() && cells[at].find_first_not_of(" \t\r\n") == std::string::npos)
        throw UserError("{}: line {}, column \"{}\" is empty; remove the row", reader.name(), reader.line(),
                        *column);
    example.text = std::move(cells[text]);
    if (paired) example.pair = std::move(cells[pair]);
  }
  if (examples.empty()) throw UserError("{} has a header and no rows", reader.name());
  if (format.regression || !labels.empty()) return examples;
  const std::set<std::string> classes(names.begin(), names.end());
  labels.assign(classes.begin(), classes.end());
  if (labels.size() < 2)
    throw UserError("{}: every row has the label \"{}\" in column \"{}\"; there is nothing to tell apart",
                    reader.name(), labels.front(), format.label);
  for (size_t i = 0; i < examples.size(); ++i)
    examples[i].label = static_cast<int32_t>(std::ranges::lower_bound(labels, names[i]) - labels.begin());
  return examples;
}

std::vector<double> score(const ExampleFormat& format, const std::vector<Example>& examples,
                          const std::vector<double>& predicted) {
  TAPER_CHECK(predicted.size() == examples.size(), "{} predictions for {} examples", predicted.size(),
              examples.size());
  std::vector<int32_t> classes, labels;
  if (!format.regression) classes.assign(predicted.begin(), predicted.end());
  std::vector<double> scores, result;
  for (const Example& example : examples) {
    labels.push_back(example.label);
    scores.push_back(example.score);
  }
  for (const TaskMetric metric : format.metrics) switch (metric) {
      case TaskMetric::accuracy:
        result.push_back(accuracy(classes, labels));
        break;
      case TaskMetric::f1_binary:
        result.push_back(f1_binary(classes, labels));
        break;
      case TaskMetric::f1_macro:
        result.push_back(f1_macro(classes, labels));
        break;
      case TaskMetric::matthews:
        result.push_back(matthews(classes, labels));
        break;
      case TaskMetric::pearson:
        result.push_back(pearson(predicted, scores));
        break;
      case TaskMetric::spearman:
        result.push_back(spearman(predicted, scores));
        break;
    }
  return result;
}

}  // namespace taper
