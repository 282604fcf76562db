#pragma once
// Which tokens a masked language model has to guess.

#include <cstdint>
#include <span>
#include <vector>

#include "recipes/text/vocabulary.h"
#include "runtime/philox.h"

namespace taper {

struct MaskOptions {
  double probability = 0.15;  ///< share of a sequence's tokens that are guessed
  bool whole_words = false;   ///< a token with "##" goes with those before it
};

/// Masks one sequence, [CLS] ... [SEP], in place: appends to `places` the tokens to be guessed, ascending,
/// and to `labels` what they were. The rule of Devlin et al.'s create_pretraining_data.py: words (or tokens)
/// in random order until round(probability tokens) tokens, at least one, are taken, but none that would
/// exceed it; of those taken 80 % become [MASK], 10 % any token of the vocabulary, 10 % stay. [CLS] and [SEP]
/// are not taken, unless the sequence has nothing else between its first and last token. At least three
/// tokens.
void mask_tokens(std::span<int32_t> sequence, const Vocabulary& vocabulary, const MaskOptions& options,
                 Draws draws, std::vector<int32_t>& places, std::vector<int32_t>& labels);

}  // namespace taper
