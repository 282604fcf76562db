#include "recipes/measures.h"

#include <fmt/format.h>

namespace taper {

std::string Metric::cell(double value) const { return fmt::format("{:.2f}", percent ? 100 * value : value); }

std::string Metric::text(double value) const { return cell(value) + (percent ? " %" : ""); }

const Measures& measures_of(const Configuration& configuration) {
  static const Measures kImages{
      "image",
      "image",
      "images",
      "Share of test images classified correctly (top-1 accuracy)",
      {{"top1", "Top-1 accuracy", "top-1", true}, {"top5", "Top-5 accuracy", "top-5", true}}};
  static const Measures kMaskedText{"token",
                                    "sequence",
                                    "text",
                                    "Share of masked tokens of the held-out text that are guessed right",
                                    {{"accuracy", "Accuracy on masked tokens", "accuracy", true},
                                     {"perplexity", "Perplexity", "perplexity", false}}};
  return configuration.data.format == "text" ? kMaskedText : kImages;
}

}  // namespace taper
