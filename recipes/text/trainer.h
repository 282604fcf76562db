#pragma once
// Learns a WordPiece vocabulary from text, by the rule of Hugging Face's BertWordPieceTrainer: byte-pair
// merges (Sennrich et al., ACL 2016) over the letters of words, those past a word's first with "##".

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "recipes/text/vocabulary.h"

namespace taper {

struct TrainerOptions {
  int64_t size = 30522;       ///< tokens, special ones included; fewer where the text has no more to merge
  int64_t min_frequency = 2;  ///< a pair met less often is not merged
  int64_t alphabet = 1000;    ///< characters kept: the most frequent ones
  bool lowercase = true;
};

/// The same text in any order, cut into any lines, gives the same vocabulary.
class VocabularyTrainer {
 public:
  /// Called now and then while training; `size` is the number of tokens so far.
  using Report = std::function<void(int64_t size)>;

  explicit VocabularyTrainer(const TrainerOptions& options) : options_(options) {}

  /// Counts the words of a line. UserError where it is not UTF-8.
  void add(std::string_view line);

  /// Special tokens; the alphabet by code point; its characters with "##", as sorted words bring them; then
  /// merges: again and again the most frequent pair of neighbouring tokens, the one of smaller ids (the left
  /// token's first) where several are. A character outside the alphabet is left out of its words. Words of
  /// more than 100 characters, which the tokenizer never cuts, teach nothing. UserError: there are no words,
  /// or `size` is less than the special tokens and the alphabet need.
  std::vector<std::string> train(const Report& report) const;

  int64_t different_runs() const { return static_cast<int64_t>(runs_.size()); }

 private:
  TrainerOptions options_;
  TextMap<int64_t> runs_;  // text between the bytes that end words, and how often
};

}  // namespace taper
