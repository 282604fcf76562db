#include "recipes/report_words.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace taper {

Spread spread_of(std::span<const double> values) {
  double sum = 0, squares = 0;
  int64_t count = 0;
  for (double value : values)
    if (std::isfinite(value)) sum += value, ++count;
  if (count == 0) return {std::numeric_limits<double>::quiet_NaN(), 0, 0};
  const double mean = sum / static_cast<double>(count);
  for (double value : values)
    if (std::isfinite(value)) squares += (value - mean) * (value - mean);
  return {mean, count > 1 ? std::sqrt(squares / static_cast<double>(count - 1)) : 0, count};
}

std::string grouped(double value) {
  const std::string digits = fmt::format("{:.0f}", value);
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string scaled(double value) {
  if (!std::isfinite(value)) return "not finite";
  static constexpr const char* kUnits[] = {"", "k", "M", "G", "T", "P", "E"};
  size_t unit = 0;
  for (; std::abs(value) >= 999.5 && unit + 1 < std::size(kUnits); ++unit) value /= 1000;
  const int decimals = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f}{}{}", value, decimals, unit ? " " : "", kUnits[unit]);
}

std::string percent_text(const Spread& spread) {
  if (spread.count == 0) return "not finite";
  if (spread.count == 1) return fmt::format("{:.2f} %", spread.mean * 100);
  return fmt::format("{:.2f} ± {:.2f} %", spread.mean * 100, spread.deviation * 100);
}

std::string number_text(const Spread& spread) {
  if (spread.count == 0) return "not finite";
  if (spread.count == 1) return fmt::format("{:.3f}", spread.mean);
  return fmt::format("{:.3f} ± {:.3f}", spread.mean, spread.deviation);
}

std::string network_title(const std::string& network) {
  if (network == "thin") return "Thin, by way of wide";
  if (network == "baseline") return "Thin, from scratch";
  if (network == "wide") return "Wide (the teacher)";
  return network;
}

std::string network_style(const std::string& network) {
  if (network == "wide") return "wide";
  return network == "baseline" ? "scratch" : "thin";
}

std::string stage_title(const std::string& stage) {
  if (stage == "baseline") return "For comparison: the thin network from scratch";
  if (stage == "wide") return "Going wide: the wide network learns the labels";
  if (stage == "imitate") return "Narrowing: the thin network imitates the wide one";
  if (stage == "match") return "Matching: the thin network learns the wide one’s answers";
  if (stage == "finetune") return "Fine-tuning: the thin network learns the labels";
  return stage;
}

std::string network_words(const NetworkOptions& network) {
  if (network.kind == "bert")
    return fmt::format("a BERT of {} layers of {} ({} heads, {} between)", network.num_hidden_layers,
                       network.hidden_size, network.num_attention_heads, network.intermediate_size);
  const std::string kind = network.kind == "plain" ? "plain network (without shortcuts)" : "residual network";
  const std::string size = network.depth > 0
                               ? fmt::format("a {}-layer {}", network.depth, kind)
                               : fmt::format("a {} with {} blocks", kind, fmt::join(network.depths, " + "));
  return fmt::format("{} ({} blocks, {} channels in its first stage)", size, network.block, network.width);
}

std::string method_words(const Configuration& c) {
  const std::string wider = fmt::format("{:g} times as wide{}", c.widen.factor,
                                        c.widen.kind == "inner" ? " inside each block" : "");
  std::string words;
  for (const std::string& stage : c.stages) {
    if (stage == "wide") {
      words += c.wide.weights.empty()
                   ? fmt::format(
                         "A network {} was trained first, because wide networks are easier to train. ", wider)
                   : fmt::format("A network {}, already trained, was taken from {}. ", wider, c.wide.weights);
    } else if (stage == "imitate") {
      words += fmt::format(
          "Then the thin network learnt, {0} by {0}{1}, to reproduce what the wide one computes inside. ",
          c.imitate.unit, c.imitate.order == "together" ? " but all at the same time" : "");
    } else if (stage == "match") {
      words += "Then the thin network learnt to give the same answers as the wide one. ";
    } else if (stage == "finetune") {
      words += "Finally the thin network was trained on the labels itself. ";
    } else if (stage == "merge") {
      words +=
          "What had been added for training was merged away: the result has exactly the thin architecture. ";
    }
  }
  if (c.runs("baseline")) {
    words += c.stages.size() > 1 ? "For comparison, the same thin network was also trained from scratch. "
                                 : "It was trained from scratch in the usual way. ";
  }
  return words;
}

std::string comparison_words(std::span<const double> ours, std::span<const double> theirs) {
  std::vector<double> differences;
  for (size_t i = 0; i < ours.size() && i < theirs.size(); ++i) differences.push_back(ours[i] - theirs[i]);
  const Spread spread = spread_of(differences);
  if (spread.count == 0) return "";
  std::string words = fmt::format(
      "The thin network trained by way of the wide one is {:.2f} percentage points {} than the same network "
      "trained from scratch",
      std::abs(spread.mean) * 100, spread.mean < 0 ? "worse" : "better");
  if (spread.count < 3) {
    return words + fmt::format("; {} seed{} cannot tell whether that is chance.", spread.count,
                               spread.count == 1 ? "" : "s");
  }
  // Student's t, two-sided 95 %, by degrees of freedom from 2.
  static constexpr double kCritical[] = {4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262};
  const double critical =
      kCritical[std::min<size_t>(static_cast<size_t>(spread.count) - 3, std::size(kCritical) - 1)];
  const double margin = critical * spread.deviation / std::sqrt(static_cast<double>(spread.count));
  return words + fmt::format(" (95 % confidence interval {:+.2f} to {:+.2f}, {} seeds): {}.",
                             (spread.mean - margin) * 100, (spread.mean + margin) * 100, spread.count,
                             std::abs(spread.mean) > margin ? "more than chance explains"
                                                            : "chance alone may explain it");
}

}  // namespace taper
