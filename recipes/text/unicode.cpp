#include "recipes/text/unicode.h"

#include <unicode/uchar.h>
#include <unicode/unorm2.h>
#include <unicode/utf8.h>

#include <algorithm>

#include "runtime/error.h"

namespace taper {
namespace {

constexpr uint8_t kCategoryVersion = 8, kDecompositionVersion = 9;

/// Whether Unicode `version` had the character. Unassigned characters, of no age, count as had.
bool known(int32_t c, uint8_t version) {
  UVersionInfo age;
  u_charAge(c, age);
  return age[0] < version || (age[0] == version && age[1] == 0);
}

/// The characters whose category changed after Unicode 8 are told apart by name, where they matter.
uint32_t category(int32_t c) { return known(c, kCategoryVersion) ? U_GET_GC_MASK(c) : U_GC_CN_MASK; }

const UNormalizer2& normalizer() {
  static const UNormalizer2* const kNormalizer = [] {
    UErrorCode error = U_ZERO_ERROR;
    const UNormalizer2* found = unorm2_getNFDInstance(&error);
    TAPER_CHECK(U_SUCCESS(error), "ICU has no NFD: {}", u_errorName(error));
    return found;
  }();
  return *kNormalizer;
}

}  // namespace

int32_t next_character(std::string_view text, int64_t& at) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
  const auto length = static_cast<int64_t>(text.size());
  UChar32 c = 0;
  U8_NEXT(bytes, at, length, c);
  return c;
}

void append_utf8(std::string& text, int32_t character) {
  char bytes[U8_MAX_LENGTH];
  int length = 0;
  U8_APPEND_UNSAFE(bytes, length, character);
  text.append(bytes, static_cast<size_t>(length));
}

int64_t invalid_utf8(std::string_view text) {
  const auto size = static_cast<int64_t>(text.size());
  for (int64_t at = 0; at < size;) {
    const int64_t begin = at;
    if (next_character(text, at) < 0) return begin;
  }
  return -1;
}

std::string replace_invalid_utf8(std::string_view text) {
  constexpr int32_t kReplacement = 0xFFFD;
  const auto size = static_cast<int64_t>(text.size());
  std::string valid;
  for (int64_t at = 0; at < size;) {
    const int32_t c = next_character(text, at);
    append_utf8(valid, c < 0 ? kReplacement : c);
  }
  return valid;
}

bool is_dropped(int32_t c) {
  if (c == '\t' || c == '\n' || c == '\r') return false;
  return c == 0xFFFD || (category(c) & (U_GC_CC_MASK | U_GC_CF_MASK | U_GC_CO_MASK)) != 0;
}

bool is_white_space(int32_t c) { return u_isUWhiteSpace(c) != 0; }

bool is_punctuation(int32_t c) {
  if (c < 0x80) return c > ' ' && c < 0x7F && u_isalnum(c) == 0;
  return (category(c) & U_GC_P_MASK) != 0 || c == 0x166D || c == 0x111C9;
}

bool is_ideograph(int32_t c) {
  // The fifth block begins where tokenizers lets it begin; Unicode's begins at U+2B820.
  static constexpr int32_t kBlocks[][2] = {{0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},
                                           {0x20000, 0x2A6DF}, {0x2A700, 0x2B81F}, {0x2B920, 0x2CEAF},
                                           {0x2F800, 0x2FA1F}};
  return std::any_of(std::begin(kBlocks), std::end(kBlocks),
                     [c](const auto& block) { return c >= block[0] && c <= block[1]; });
}

bool is_nonspacing_mark(int32_t c) {
  if (c == 0x1734) return true;
  if (c == 0x1885 || c == 0x1886 || c == 0xA9BD || c == 0x111C9) return false;
  return (category(c) & U_GC_MN_MASK) != 0;
}

uint8_t combining_class(int32_t c) { return known(c, kDecompositionVersion) ? u_getCombiningClass(c) : 0; }

int decomposition(int32_t c, char16_t* units) {
  if (!known(c, kDecompositionVersion)) return 0;
  constexpr int kUnits = 32;
  UErrorCode error = U_ZERO_ERROR;
  const int count = unorm2_getDecomposition(&normalizer(), c, units, kUnits, &error);
  TAPER_CHECK(U_SUCCESS(error), "U+{:04X} has no decomposition: {}", c, u_errorName(error));
  return std::max(count, 0);
}

int32_t lower_case(int32_t c, int32_t& second) {
  second = c == 0x130 ? 0x307 : 0;
  if (c == 0x130) return 'i';
  // Letters of Unicode 16 and 17, which ICU 72 lacks.
  if (c == 0xA7CB) return 0x264;
  if (c == 0xA7DC) return 0x19B;
  if (c == 0x1C89 || c == 0xA7CC || c == 0xA7CE || c == 0xA7D2 || c == 0xA7D4 || c == 0xA7DA) return c + 1;
  if (c >= 0x10D50 && c <= 0x10D65) return c + 0x20;
  if (c >= 0x16EA0 && c <= 0x16EB8) return c + 0x1B;
  return u_tolower(c);
}

}  // namespace taper
