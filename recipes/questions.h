#pragma once
// Questions about contexts as a run trains on them.

#include <memory>
#include <string>
#include <vector>

#include "recipes/data.h"
#include "recipes/text/squad_windows.h"
#include "recipes/text_batches.h"

namespace taper {

/// How the configured data become windows, and logits answers.
SquadOptions squad_options(const DataOptions& options);
/// Whether a context may hold no answer: data.format = "squad_v2".
bool may_be_unanswerable(const DataOptions& options);

/// Adds a window to the batch, with its answer's first and last token as labels.
void add_window(TextBatch& batch, int64_t sample, const SquadWindow& window);

/// A sample is a window of a context, so a question may have several, of which those without the answer teach
/// that it is not there. A score is of questions: each counts once, by the best answer in all of its windows.
class Questions final : public Data {
 public:
  /// UserError as vocabulary_of, read_squad and make_windows; or a question has no answer though data.format
  /// is "squad".
  explicit Questions(const Configuration& configuration);

  const DataFacts& facts() const override { return facts_; }
  std::string identity() const override { return identity_; }
  std::unique_ptr<Batches> train_batches(const StageOptions& stage, uint64_t key, int64_t first, int64_t end,
                                         Share share = {}) const override;
  std::unique_ptr<Batches> plain_batches(Split split, int64_t batch_size, int64_t limit = 0,
                                         int64_t first = 0) const override;
  std::vector<double> score(const std::vector<double>& predicted) const override;

 private:
  struct Part {
    std::vector<SquadQuestion> questions;
    std::vector<SquadWindow> windows;
    std::vector<size_t> first = {0};  ///< question i has windows first[i] .. first[i + 1] - 1
  };
  Part read(const std::string& file, int64_t limit, Tokenizer& tokenizer) const;
  AddSequence adder(Split split) const;

  const DataOptions& options_;
  Part train_, test_;
  std::string identity_;
  DataFacts facts_{};
};

}  // namespace taper
