#pragma once
// UTF-8 and the properties of characters that BERT's tokenisation asks for. Two tokenizers give the same ids
// only if they agree on every character, so each property has the Unicode version that Hugging Face's
// tokenizers 0.2x gives it: categories those of Unicode 8, decompositions those of Unicode 9, lower case that
// of Unicode 17, white space that of every version.

#include <cstdint>
#include <string>
#include <string_view>

namespace taper {

/// The character at byte `at`, which moves past it. -1 for bytes that are not UTF-8 (surrogates, overlong
/// forms and values past U+10FFFF are not); `at` then moves past the longest part that could have begun a
/// character.
int32_t next_character(std::string_view text, int64_t& at);

void append_utf8(std::string& text, int32_t character);

/// The first byte at which `text` is not UTF-8, or -1.
int64_t invalid_utf8(std::string_view text);

/// `text` with U+FFFD for each part that is not UTF-8, as Python's bytes.decode("utf-8", "replace") does.
std::string replace_invalid_utf8(std::string_view text);

/// What clean_text drops: U+0000, U+FFFD, and control, format and private characters other than tab and line
/// ends. Unassigned ones stay.
bool is_dropped(int32_t c);
bool is_white_space(int32_t c);
/// Stands alone: category P, and the symbols of ASCII ($ + < = > ^ ` | ~).
bool is_punctuation(int32_t c);
/// In one of the ideograph blocks that BERT surrounds with spaces.
bool is_ideograph(int32_t c);
/// Category Mn: what stripping accents drops.
bool is_nonspacing_mark(int32_t c);
/// The canonical combining class, which orders marks in NFD.
uint8_t combining_class(int32_t c);
/// NFD of one character as UTF-16 in `units` (at least 32); the number of units, or 0 if it is itself.
int decomposition(int32_t c, char16_t* units);
/// The lower case without context (no final sigma). U+0130 alone becomes two characters: `second` is the
/// other, else 0.
int32_t lower_case(int32_t c, int32_t& second);

}  // namespace taper
