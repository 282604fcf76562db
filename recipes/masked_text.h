#pragma once
// Text to pre-train on: sequences with masked tokens to guess.

#include <memory>
#include <vector>

#include "recipes/data.h"
#include "recipes/text/masking.h"
#include "recipes/text/token_cache.h"
#include "recipes/text_batches.h"

namespace taper {

/// Each file's tokens are cut into sequences of data.sequence_length, [CLS] ... [SEP]; its last one is
/// shorter. Which sequences are held out as the test split depends on their numbers alone. A sequence's masks
/// are a function of (key, epoch, sequence): neither batch nor shard nor the step at which reading began
/// matters.
class MaskedText final : public Data {
 public:
  /// UserError as vocabulary_of and TokenCache; or the text is too short to hold any of it out.
  explicit MaskedText(const Configuration& configuration);

  const DataFacts& facts() const override { return facts_; }
  std::string identity() const override { return cache_.name(); }
  std::unique_ptr<Batches> train_batches(const StageOptions& stage, uint64_t key, int64_t first, int64_t end,
                                         Share share = {}) const override;
  std::unique_ptr<Batches> plain_batches(Split split, int64_t batch_size, int64_t limit = 0,
                                         int64_t first = 0) const override;

 private:
  AddSequence adder(const std::vector<std::span<const int32_t>>& split, uint64_t key) const;

  const DataOptions& options_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  TokenCache cache_;
  std::vector<std::span<const int32_t>> train_, test_;  // sequences without [CLS] and [SEP]
  DataFacts facts_{};
};

}  // namespace taper
