#pragma once
// The report's plain words and numbers. Nothing here is escaped yet.

#include <span>
#include <string>

#include "recipes/config.h"

namespace taper {

/// Mean and sample standard deviation (0 for one value) of the finite values; NaN without any.
struct Spread {
  double mean, deviation;
  int64_t count;
};
Spread spread_of(std::span<const double> values);

/// 57058 as "57,058".
std::string grouped(double value);
/// 8.4e6 as "8.40 M"; k, M, G, T, P, E.
std::string scaled(double value);
/// "88.10 %", or "88.10 ± 0.21 %" for several values.
std::string percent_text(const Spread& spread);
/// "0.352", or "0.352 ± 0.004" for several values.
std::string number_text(const Spread& spread);

/// "Thin, by way of wide" for "thin"; a name that is not one of the method's stays.
std::string network_title(const std::string& network);
/// The style class of a network's colour: "thin", "wide" or "scratch".
std::string network_style(const std::string& network);
std::string stage_title(const std::string& stage);

/// "a 29-layer residual network (bottleneck blocks, 8 channels in its first stage)".
std::string network_words(const NetworkOptions& network);
/// What the stages did, one sentence each, in the order they ran; the comparison comes last.
std::string method_words(const Configuration& configuration);
/// Whether `ours` (the thin network by way of the wide one) beats `theirs` (from scratch), accuracies paired
/// by seed: a difference above twice its standard error over at least 3 seeds counts. Empty without a pair.
std::string comparison_words(std::span<const double> ours, std::span<const double> theirs);

}  // namespace taper
