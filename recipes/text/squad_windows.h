#pragma once
// Questions with long contexts as sequences for BERT, and answers from its logits: the windows and the search
// of BERT's run_squad.py (Devlin et al., NAACL 2019).

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "recipes/text/squad.h"
#include "recipes/text/tokenizer.h"

namespace taper {

struct SquadOptions {
  int64_t max_length = 384;   ///< tokens of a window, with [CLS] and both [SEP]
  int64_t stride = 128;       ///< from the start of a window to that of the next, in tokens of the context
  int64_t max_question = 64;  ///< tokens; the rest is cut off
  int64_t max_answer = 30;    ///< tokens
  int64_t best = 20;          ///< starts and ends considered
  double null_threshold = 0;  ///< 2.0: no answer where that scores higher by more than this
};

/// [CLS] question [SEP] a stretch of the context [SEP]; the types are 0 before `context` and 1 from there.
struct SquadWindow {
  std::vector<int32_t> ids;
  int64_t context = 0;        ///< the first position of a context token
  std::vector<Token> tokens;  ///< of the context, with their bytes: those of ids[context], ...
  /// Whether no other window of the question shows more on both sides of the token: an answer starts there.
  std::vector<bool> widest;
  int32_t start = 0,
          end = 0;  ///< positions of the first answer; 0, [CLS], where the window does not hold all of it
};

/// Covers the whole context, each window but the last full. UserError where max_length leaves no room for the
/// context.
std::vector<SquadWindow> make_windows(const SquadQuestion& question, Tokenizer& tokenizer,
                                      const SquadOptions& options);

struct SquadPrediction {
  std::string text;        ///< as written in the context; empty: no answer
  double probability = 0;  ///< among the best candidates
};

/// From the start's and the end's logit at each position of each window, [positions, 2]. `version2`: there
/// may be no answer.
SquadPrediction best_answer(const SquadQuestion& question, std::span<const SquadWindow> windows,
                            std::span<const std::vector<float>> logits, const SquadOptions& options,
                            bool version2);

}  // namespace taper
