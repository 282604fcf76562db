#pragma once
// What a run trains on: both splits, and how each stage sees them.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "layers/network.h"
#include "recipes/batch.h"
#include "recipes/config.h"
#include "recipes/data/dataset.h"
#include "recipes/text/vocabulary.h"

namespace taper {

/// What networks and costs have to know of the data.
struct DataFacts {
  Extent extent{};                       ///< of a sample
  int64_t channels = 0, classes = 0;     ///< of images; of labelled text the classes, or 1 for a regression
  int64_t vocabulary = 0;                ///< of text: different tokens
  int64_t train = 0, test = 0;           ///< samples
  bool labelled = false;                 ///< text with a label for each sample
  std::vector<std::string> labels = {};  ///< the classes' names, of labelled text that is no regression
  bool questions = false;  ///< windows of contexts, each with the first and last token of an answer

  /// How many numbers of a network's output on a test sample Data::score wants; 0: nothing is scored.
  int64_t scored() const { return questions ? 2 * extent.width : labelled ? 1 : 0; }

  /// As a checkpoint keeps them, so that its networks can be used without the data.
  std::string write() const;
  /// Failure for anything that write() has not written.
  static DataFacts read(const std::string& text);
};

class Data {
 public:
  virtual ~Data() = default;
  virtual const DataFacts& facts() const = 0;
  int64_t size(Split split) const { return split == Split::train ? facts().train : facts().test; }

  /// A hash of the content, which a resumed run must find again; empty for images, which nobody reads whole
  /// before they are needed.
  virtual std::string identity() const { return ""; }

  /// Training batches of a stage, in an order and with changes (crops, masks) drawn under `key`, from step
  /// `first` to before `end`; a step's bits depend neither on `first` nor on the share. The last, smaller
  /// batch of an epoch is left out.
  virtual std::unique_ptr<Batches> train_batches(const StageOptions& stage, uint64_t key, int64_t first,
                                                 int64_t end, Share share = {}) const = 0;
  /// The first `limit` (0: all) samples of a split once each, as evaluation sees them: the same every time.
  /// The last batch may hold a few more than `limit`. The first batch given is number `first`.
  virtual std::unique_ptr<Batches> plain_batches(Split split, int64_t batch_size, int64_t limit = 0,
                                                 int64_t first = 0) const = 0;

  /// Of labelled text and questions: their metrics, as Measures lists them, of facts().scored() numbers for
  /// each test sample in their order: a class, or in a regression a number; or the logits of a window's
  /// tokens, two each, with whatever behind them. A correlation that is undefined, of a constant, counts
  /// as 0.
  virtual std::vector<double> score(const std::vector<double>& predicted) const;

  /// Steps of one epoch of a stage. UserError if its batch is larger than the data.
  int64_t steps_per_epoch(const StageOptions& stage, const std::string& name) const;
};

/// The vocabulary of the configured text. UserError as read_vocabulary, or it has more tokens than
/// network.vocab_size.
std::shared_ptr<const Vocabulary> vocabulary_of(const Configuration& configuration);
/// The same for networks that a run has trained: UserError also where it has not as many tokens as then.
std::shared_ptr<const Vocabulary> vocabulary_of(const Configuration& configuration, const DataFacts& trained);

/// The data as configured. UserError names the file and what is wrong with it.
std::unique_ptr<Data> open_data(const Configuration& configuration);

}  // namespace taper
