#include "recipes/text/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "runtime/error.h"

namespace taper {

namespace {

template <typename T>
void require_pairs(std::span<const T> predicted, std::span<const T> truth) {
  TAPER_CHECK(predicted.size() == truth.size() && !truth.empty(), "{} predictions for {} labels",
              predicted.size(), truth.size());
}

/// Of one class: how often it is predicted, how often it is the label, and how often both.
struct Counts {
  int64_t predicted = 0, labelled = 0, both = 0;
  double f1() const {
    const int64_t all = predicted + labelled;
    return all == 0 ? 0 : 2 * static_cast<double>(both) / static_cast<double>(all);
  }
};

std::vector<Counts> count(std::span<const int32_t> predicted, std::span<const int32_t> labels) {
  require_pairs(predicted, labels);
  const int32_t last = std::max(std::ranges::max(predicted), std::ranges::max(labels));
  TAPER_CHECK(std::min(std::ranges::min(predicted), std::ranges::min(labels)) >= 0, "a class is negative");
  std::vector<Counts> counts(static_cast<size_t>(last) + 1);
  for (size_t i = 0; i < labels.size(); ++i) {
    const auto ours = static_cast<size_t>(predicted[i]), truth = static_cast<size_t>(labels[i]);
    ++counts[ours].predicted;
    ++counts[truth].labelled;
    if (ours == truth) ++counts[ours].both;
  }
  return counts;
}

/// Ranks from 1; equal values share the mean of theirs. NaN has no rank.
std::vector<double> ranks(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> result(values.size());
  for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    for (size_t i = begin; i < end; ++i) result[order[i]] = 0.5 * static_cast<double>(begin + end + 1);
  }
  return result;
}

bool all_finite(std::span<const double> values) {
  return std::ranges::all_of(values, [](double v) { return std::isfinite(v); });
}

}  // namespace

double accuracy(std::span<const int32_t> predicted, std::span<const int32_t> labels) {
  int64_t right = 0;
  for (const Counts& c : count(predicted, labels)) right += c.both;
  return static_cast<double>(right) / static_cast<double>(labels.size());
}

double f1_binary(std::span<const int32_t> predicted, std::span<const int32_t> labels) {
  const std::vector<Counts> counts = count(predicted, labels);
  return counts.size() < 2 ? 0 : counts[1].f1();
}

double f1_macro(std::span<const int32_t> predicted, std::span<const int32_t> labels) {
  double sum = 0;
  int64_t classes = 0;
  for (const Counts& c : count(predicted, labels)) {
    if (c.predicted + c.labelled == 0) continue;
    sum += c.f1();
    ++classes;
  }
  return sum / static_cast<double>(classes);
}

double matthews(std::span<const int32_t> predicted, std::span<const int32_t> labels) {
  double right = 0, products = 0, predicted_squares = 0, labelled_squares = 0;
  for (const Counts& c : count(predicted, labels)) {
    const auto p = static_cast<double>(c.predicted), t = static_cast<double>(c.labelled);
    right += static_cast<double>(c.both);
    products += p * t;
    predicted_squares += p * p;
    labelled_squares += t * t;
  }
  const auto n = static_cast<double>(labels.size());
  const double spread = (n * n - predicted_squares) * (n * n - labelled_squares);
  return spread == 0 ? 0 : (right * n - products) / std::sqrt(spread);
}

double pearson(std::span<const double> predicted, std::span<const double> scores) {
  require_pairs(predicted, scores);
  const auto n = static_cast<double>(scores.size());
  const auto mean = [n](std::span<const double> x) { return std::reduce(x.begin(), x.end(), 0.0) / n; };
  const double mean_x = mean(predicted), mean_y = mean(scores);
  double xx = 0, yy = 0, xy = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    const double x = predicted[i] - mean_x, y = scores[i] - mean_y;
    xx += x * x;
    yy += y * y;
    xy += x * y;
  }
  if (!(xx > 0 && yy > 0)) return std::numeric_limits<double>::quiet_NaN();
  return std::clamp(xy / (std::sqrt(xx) * std::sqrt(yy)), -1.0, 1.0);
}

double spearman(std::span<const double> predicted, std::span<const double> scores) {
  require_pairs(predicted, scores);
  if (!all_finite(predicted) || !all_finite(scores)) return std::numeric_limits<double>::quiet_NaN();
  return pearson(ranks(predicted), ranks(scores));
}

}  // namespace taper
