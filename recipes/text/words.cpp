#include "recipes/text/words.h"

#include <algorithm>
#include <array>

#include "recipes/text/unicode.h"
#include "runtime/error.h"

namespace taper {
namespace {

/// Drops and replaces characters, and sets ideographs apart.
std::vector<Letter> clean(std::string_view text) {
  std::vector<Letter> letters;
  letters.reserve(text.size());
  const auto size = static_cast<int64_t>(text.size());
  for (int64_t at = 0; at < size;) {
    const int64_t begin = at;
    const int32_t c = next_character(text, at);
    if (c < 0)
      throw UserError("the text is not UTF-8 at byte {}; convert it, or replace what is not UTF-8", begin);
    if (is_dropped(c)) continue;
    if (is_ideograph(c)) {
      letters.insert(letters.end(), {{' ', begin, at}, {c, begin, at}, {' ', begin, at}});
    } else {
      letters.push_back({is_white_space(c) ? ' ' : c, begin, at});
    }
  }
  return letters;
}

/// NFD without nonspacing marks. Where marks change places, tokenizers gives the bytes to the places, not to
/// the marks; so does this.
std::vector<Letter> strip_accents(const std::vector<Letter>& letters) {
  struct Part {
    int32_t code;
    uint8_t order;
    bool first;  // of its character
  };
  std::vector<Part> parts;
  parts.reserve(letters.size());
  for (const Letter& letter : letters) {
    std::array<char16_t, 32> units{};
    const int count = decomposition(letter.code, units.data());
    if (count == 0) parts.push_back({letter.code, combining_class(letter.code), true});
    for (int i = 0; i < count;) {
      const bool first = i == 0;
      auto code = static_cast<int32_t>(units[static_cast<size_t>(i++)]);
      if (code >= 0xD800 && code < 0xDC00)
        code = 0x10000 + ((code - 0xD800) << 10) + (units[static_cast<size_t>(i++)] - 0xDC00);
      parts.push_back({code, combining_class(code), first});
    }
  }
  for (auto begin = parts.begin(); begin != parts.end();) {
    if (begin->order == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, parts.end(), [](const Part& part) { return part.order == 0; });
    std::stable_sort(begin, end, [](const Part& a, const Part& b) { return a.order < b.order; });
    begin = end;
  }
  std::vector<Letter> stripped;
  stripped.reserve(parts.size());
  size_t seen = 0;
  for (const Part& part : parts) {
    if (part.first) ++seen;
    const Letter& place = letters[seen - 1];
    if (!is_nonspacing_mark(part.code)) stripped.push_back({part.code, place.begin, place.end});
  }
  return stripped;
}

std::vector<Letter> lower(const std::vector<Letter>& letters) {
  std::vector<Letter> lowered;
  lowered.reserve(letters.size());
  for (const Letter& letter : letters) {
    int32_t second = 0;
    lowered.push_back({lower_case(letter.code, second), letter.begin, letter.end});
    if (second != 0) lowered.push_back({second, letter.begin, letter.end});
  }
  return lowered;
}

}  // namespace

bool ends_word(char byte) {
  static const std::array<bool, 256> kEnds = [] {
    std::array<bool, 256> ends{};
    for (int32_t c = 0; c < 0x80; ++c)
      ends[static_cast<size_t>(c)] = c == ' ' || c == '\t' || c == '\n' || c == '\r' || is_punctuation(c);
    return ends;
  }();
  return kEnds[static_cast<uint8_t>(byte)];
}

void for_each_word(std::string_view text, bool lowercase,
                   const std::function<void(std::span<const Letter>)>& word) {
  std::vector<Letter> letters = clean(text);
  if (lowercase) letters = lower(strip_accents(letters));
  const std::span<const Letter> all(letters);
  size_t begin = 0;
  for (size_t i = 0; i <= all.size(); ++i) {
    const bool end = i == all.size() || all[i].code == ' ', alone = !end && is_punctuation(all[i].code);
    if (!end && !alone) continue;
    if (begin < i) word(all.subspan(begin, i - begin));
    if (alone) word(all.subspan(i, 1));
    begin = i + 1;
  }
}

}  // namespace taper
