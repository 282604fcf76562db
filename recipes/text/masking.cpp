#include "recipes/text/masking.h"

#include <algorithm>
#include <cmath>

#include "runtime/error.h"

namespace taper {

void mask_tokens(std::span<int32_t> sequence, const Vocabulary& vocabulary, const MaskOptions& options,
                 Draws draws, std::vector<int32_t>& places, std::vector<int32_t>& labels) {
  TAPER_CHECK(sequence.size() >= 3, "a sequence of {} tokens", sequence.size());
  auto special = [&](int32_t id) { return id == vocabulary.cls || id == vocabulary.sep; };
  struct Word {
    size_t begin, size;
  };
  std::vector<Word> words;
  for (size_t i = 1; i + 1 < sequence.size(); ++i) {
    if (special(sequence[i])) continue;
    bool continues = options.whole_words && !words.empty() && words.back().begin + words.back().size == i &&
                     vocabulary.token(sequence[i]).starts_with("##");
    if (continues)
      ++words.back().size;
    else
      words.push_back({i, 1});
  }
  if (words.empty()) words.push_back({1, 1});
  for (size_t i = words.size(); i > 1; --i)
    std::swap(words[i - 1], words[draws.below(static_cast<uint32_t>(i))]);

  const auto wanted = static_cast<size_t>(
      std::max(1.0, std::round(options.probability * static_cast<double>(sequence.size()))));
  const size_t first = places.size();
  for (const Word& word : words) {
    const size_t taken = places.size() - first;
    if (taken >= wanted) break;
    if (taken > 0 && taken + word.size > wanted) continue;
    for (size_t i = word.begin; i < word.begin + word.size; ++i) places.push_back(static_cast<int32_t>(i));
  }
  std::sort(places.begin() + static_cast<std::ptrdiff_t>(first), places.end());
  for (size_t i = first; i < places.size(); ++i) {
    int32_t& token = sequence[static_cast<size_t>(places[i])];
    labels.push_back(token);
    const float u = draws.uniform();
    if (u < 0.8F)
      token = vocabulary.mask;
    else if (u < 0.9F)
      token = static_cast<int32_t>(draws.below(static_cast<uint32_t>(vocabulary.size())));
  }
}

}  // namespace taper
