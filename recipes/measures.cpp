#include "recipes/measures.h"

#include <fmt/format.h>

#include <map>

#include "recipes/labelled_text.h"

namespace taper {

std::string Metric::cell(double value) const { return fmt::format("{:.2f}", percent ? 100 * value : value); }

std::string Metric::text(double value) const { return cell(value) + (percent ? " %" : ""); }

namespace {

Metric metric_of(TaskMetric metric) {
  static const std::map<TaskMetric, std::string> kTitles = {{TaskMetric::accuracy, "Accuracy"},
                                                            {TaskMetric::f1_binary, "F1"},
                                                            {TaskMetric::f1_macro, "F1, mean over classes"},
                                                            {TaskMetric::matthews, "Matthews' correlation"},
                                                            {TaskMetric::pearson, "Pearson's correlation"},
                                                            {TaskMetric::spearman, "Spearman's correlation"}};
  const std::string key(name(metric));
  return {key, kTitles.at(metric), key, true};
}

/// Kept for good: runs hold on to what their measures are called.
const Measures& task_measures(const std::vector<TaskMetric>& metrics) {
  static std::map<std::vector<TaskMetric>, Measures> known;
  const auto [place, is_new] = known.try_emplace(metrics);
  if (!is_new) return place->second;
  std::vector<Metric> all;
  all.reserve(metrics.size());
  for (const TaskMetric metric : metrics) all.push_back(metric_of(metric));
  place->second = {"token", "text", "text", all.front().title + " on the test texts", all};
  return place->second;
}

}  // namespace

const Measures& measures_of(const Configuration& configuration) {
  if (configuration.data.labelled()) return task_measures(example_format(configuration.data).metrics);
  static const Measures kImages{
      "image",
      "image",
      "images",
      "Share of test images classified correctly (top-1 accuracy)",
      {{"top1", "Top-1 accuracy", "top-1", true}, {"top5", "Top-5 accuracy", "top-5", true}}};
  static const Measures kQuestions{
      "token",
      "window",
      "text",
      "F1 of the words that the answers share with the right ones, mean over the test questions",
      {{"f1", "F1", "f1", true}, {"exact_match", "Exact match", "exact match", true}}};
  if (configuration.data.questions()) return kQuestions;
  static const Measures kMaskedText{"token",
                                    "sequence",
                                    "text",
                                    "Share of masked tokens of the held-out text that are guessed right",
                                    {{"accuracy", "Accuracy on masked tokens", "accuracy", true},
                                     {"perplexity", "Perplexity", "perplexity", false}}};
  return configuration.data.format == "text" ? kMaskedText : kImages;
}

}  // namespace taper
