#pragma once
// BERT's tokenizer: words (recipes/text/words.h), then WordPiece: each word into the longest tokens from its
// left that the vocabulary has (Wu et al. 2016). Ids and offsets are those of Hugging Face's tokenizers.

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "recipes/text/vocabulary.h"
#include "recipes/text/words.h"

namespace taper {

/// A token and the bytes [begin, end) of the text that it came from.
struct Token {
  int32_t id;
  int64_t begin, end;
};

/// Remembers the tokens of the words that it has met: one for each thread. The results do not depend on that.
class Tokenizer {
 public:
  /// `lowercase`: for uncased vocabularies; also strips accents, as BERT does.
  Tokenizer(std::shared_ptr<const Vocabulary> vocabulary, bool lowercase);

  /// Appends the tokens of `text` to `tokens`, without [CLS] and [SEP]. A word of more than 100 characters,
  /// or with one that no token covers, is [UNK]. Special tokens written out in the text ("[MASK]") are
  /// themselves. UserError where `text` is not UTF-8.
  void encode(std::string_view text, std::vector<Token>& tokens);

  const Vocabulary& vocabulary() const { return *vocabulary_; }

 private:
  struct Remembered {
    uint32_t first, count;  // in remembered_tokens_
  };

  void add_run(std::string_view run, int64_t at, std::vector<Token>& tokens);
  void add_word(std::span<const Letter> word, std::vector<Token>& tokens);
  /// Bytes of the special token that `text` begins with, or 0.
  size_t special(std::string_view text, int32_t& id) const;

  std::shared_ptr<const Vocabulary> vocabulary_;
  bool lowercase_;
  TextMap<Remembered> remembered_;
  std::vector<Token> remembered_tokens_, run_tokens_;
  std::vector<int64_t> bounds_;
  std::string word_;
};

/// Turns byte offsets into `text` into character offsets, as Python counts. The tokens are in the text's
/// order.
void to_character_offsets(std::string_view text, std::vector<Token>& tokens);

}  // namespace taper
