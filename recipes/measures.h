#pragma once
// What a run's results are called: it depends on what is learnt.

#include <string>
#include <vector>

#include "recipes/config.h"

namespace taper {

/// One number that says how good a network is on the test split.
struct Metric {
  std::string key;    ///< in metrics.jsonl: "top1"
  std::string title;  ///< in the report: "Top-1 accuracy"
  std::string name;   ///< in tables and messages: "top-1"
  bool percent;       ///< a fraction, shown as a percentage; else a plain number

  /// "91.25 %" or "8.13".
  std::string text(double value) const;
  /// "top-1 %" and "91.25".
  std::string column() const { return percent ? name + " %" : name; }
  std::string cell(double value) const;
};

struct Measures {
  std::string item;             ///< what speed counts: "image", "token"
  std::string sample;           ///< what data counts: "image", "sequence"
  std::string material;         ///< what it consists of: "images", "text"
  std::string meaning;          ///< of the first metric, in a report
  std::vector<Metric> metrics;  ///< of the first, more is better: it decides which weights are the best

  std::string rate() const { return item + "s_per_s"; }
};

const Measures& measures_of(const Configuration& configuration);

}  // namespace taper
