#pragma once
// Labelled texts and pairs of texts: GLUE's files as published, and plain tables.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "recipes/text/table_reader.h"

namespace taper {

enum class TaskMetric : uint8_t { accuracy, f1_binary, f1_macro, matthews, pearson, spearman };
/// "accuracy", "f1", "f1_macro", "matthews", "pearson", "spearman".
std::string_view name(TaskMetric metric);

/// The columns of a task's files, and how it is scored.
struct ExampleFormat {
  Separator separator = Separator::tab;
  bool header = true;                                     ///< without one the columns are "1", "2", ...
  std::string text = "text", pair = {}, label = "label";  ///< columns; `pair` empty: single texts
  /// The labels in the order of their classes; empty: whatever a training file has, in byte order.
  std::vector<std::string> labels = {};
  bool regression = false;               ///< labels are numbers, and there are no classes
  std::vector<TaskMetric> metrics = {};  ///< the first decides which evaluation is the best
};

/// GLUE's tasks by name: "cola", "sst-2", "mrpc", "sts-b", "qqp", "mnli", "qnli", "rte". Classes are numbered
/// as in Hugging Face's run_glue. nothing for any other name.
std::optional<ExampleFormat> glue_format(std::string_view task);

struct Example {
  std::string text, pair;
  int32_t label = 0;  ///< its class; 0 in a regression
  double score = 0;   ///< of a regression
};

/// Reads a split. `labels`: in, the classes, or empty to learn them from this file; out, the classes.
/// UserError as TableReader, and naming file, line and column for a label that is no class (or, in a
/// regression, no finite number), a text without anything in it, a file with fewer than two classes to learn,
/// or no rows.
std::vector<Example> read_examples(const std::filesystem::path& path, const ExampleFormat& format,
                                   std::vector<std::string>& labels);

/// Scores predicted classes, or predicted numbers in a regression, in the order of format.metrics.
std::vector<double> score(const ExampleFormat& format, const std::vector<Example>& examples,
                          const std::vector<double>& predicted);

}  // namespace taper
