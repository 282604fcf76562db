#pragma once
// BERT's basic tokenisation: text into words, before these are cut into pieces (Devlin et al., NAACL 2019,
// and Hugging Face's BertNormalizer and BertPreTokenizer, whose steps and order these are): drop control
// characters, white space becomes a space, spaces around ideographs; for uncased text NFD without nonspacing
// marks, and lower case; then cut at spaces and around punctuation.

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

namespace taper {

/// A normalised character, and the bytes of the text that it stands for.
struct Letter {
  int32_t code;
  int64_t begin, end;
};

/// Whether the byte is one of ASCII's that always end a word: space, tab, line ends, and punctuation. Text
/// may be cut before and after such a byte without changing its words.
bool ends_word(char byte);

/// Calls `word` for each word of `text`, in order. UserError where `text` is not UTF-8.
void for_each_word(std::string_view text, bool lowercase,
                   const std::function<void(std::span<const Letter>)>& word);

}  // namespace taper
