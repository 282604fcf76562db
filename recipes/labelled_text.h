#pragma once
// Labelled texts as a run trains on them.

#include <memory>
#include <string>
#include <vector>

#include "recipes/data.h"
#include "recipes/text/examples.h"
#include "recipes/text/tokenizer.h"
#include "recipes/text_batches.h"

namespace taper {

/// The columns and metrics of the configured task: those of data.format = "glue" by the name of data.path's
/// folder, in any case. UserError where GLUE has no such task.
ExampleFormat example_format(const DataOptions& options);

/// The sequence of a text, or of a pair, of at most `length` tokens: [CLS] text [SEP], or [CLS] text [SEP]
/// pair [SEP] with types 0 and then 1. What is too long loses tokens at its end; of a pair, the longer one
/// (Devlin et al.'s run_classifier.py).
struct TextSequence {
  std::vector<int32_t> words, types;
};
TextSequence make_sequence(Tokenizer& tokenizer, const std::string& text, const std::string& pair,
                           int64_t length);

class LabelledText final : public Data {
 public:
  /// UserError as vocabulary_of and read_examples.
  explicit LabelledText(const Configuration& configuration);

  const DataFacts& facts() const override { return facts_; }
  std::string identity() const override { return identity_; }
  std::unique_ptr<Batches> train_batches(const StageOptions& stage, uint64_t key, int64_t first, int64_t end,
                                         Share share = {}) const override;
  std::unique_ptr<Batches> plain_batches(Split split, int64_t batch_size, int64_t limit = 0,
                                         int64_t first = 0) const override;
  std::vector<double> score(const std::vector<double>& predicted) const override;

 private:
  struct Part {
    std::vector<Example> examples;
    std::vector<TextSequence> sequences;
  };
  AddSequence adder(const Part& part) const;
  Part read(const std::string& file, int64_t limit, Tokenizer& tokenizer,
            std::vector<std::string>& labels) const;

  const DataOptions& options_;
  ExampleFormat format_;
  Part train_, test_;
  std::string identity_;
  DataFacts facts_{};
};

}  // namespace taper
