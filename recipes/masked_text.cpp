#include "recipes/masked_text.h"

#include <algorithm>
#include <numeric>

#include "recipes/data/shuffle.h"
#include "recipes/text/text_batch.h"
#include "runtime/error.h"

namespace taper {

namespace {

TextSource source(const DataOptions& options, std::shared_ptr<const Vocabulary> vocabulary) {
  return {.files = text_files(options.path),
          .vocabulary = std::move(vocabulary),
          .lowercase = !options.cased,
          .invalid = options.on_error == "replace" ? InvalidText::replace : InvalidText::refuse};
}

template <typename T>
void keep(std::vector<T>& values, int64_t limit) {
  if (limit > 0 && std::ssize(values) > limit) values.resize(static_cast<size_t>(limit));
}

}  // namespace

// Batches of a split from some step on.
class MaskedText::Reader final : public Batches {
 public:
  Reader(const MaskedText& text, const std::vector<std::span<const int32_t>>& split, uint64_t key,
         int64_t batch_size, int64_t first)
      : text_(text), split_(split), key_(key), batch_size_(batch_size), step_(first) {
    order_.resize(split.size());
    std::iota(order_.begin(), order_.end(), 0);
  }
  /// In an order of its own in each epoch, without the last, smaller batch.
  void shuffled() { shuffled_ = true; }

  std::unique_ptr<Batch> next() override {
    const auto samples = std::ssize(split_);
    const int64_t steps = shuffled_ ? samples / batch_size_ : (samples + batch_size_ - 1) / batch_size_;
    const int64_t epoch = step_ / steps, begin = step_ % steps * batch_size_;
    if (shuffled_ && epoch != order_epoch_) shuffle(order_, samples, fold(key_, hash("order")), epoch);
    order_epoch_ = epoch;
    auto batch = std::make_unique<TextBatch>();
    batch->dropout_key = fold(fold(key_, hash("dropout")), static_cast<uint64_t>(step_));
    std::vector<int32_t> words, types, places, labels;
    for (int64_t i = begin; i < std::min(begin + batch_size_, samples); ++i) {
      const int64_t sample = order_[static_cast<size_t>(i)];
      const std::span<const int32_t> tokens = split_[static_cast<size_t>(sample)];
      words.assign(1, text_.vocabulary_->cls);
      words.insert(words.end(), tokens.begin(), tokens.end());
      words.push_back(text_.vocabulary_->sep);
      types.assign(words.size(), 0);
      places.clear();
      labels.clear();
      mask_tokens(
          words, *text_.vocabulary_, {text_.options_.mask_probability, text_.options_.whole_word_masking},
          Draws(fold(key_, hash("mask")), static_cast<uint64_t>(epoch), static_cast<uint64_t>(sample)),
          places, labels);
      batch->add(sample, words, types, places, labels);
    }
    ++step_;
    return batch;
  }

 private:
  const MaskedText& text_;
  const std::vector<std::span<const int32_t>>& split_;
  uint64_t key_;
  int64_t batch_size_, step_;
  bool shuffled_ = false;
  int64_t order_epoch_ = -1;
  std::vector<int64_t> order_;
};

MaskedText::MaskedText(const Configuration& configuration)
    : options_(configuration.data),
      vocabulary_(std::make_shared<const Vocabulary>(read_vocabulary(options_.vocabulary))),
      cache_(source(options_, vocabulary_), options_.cache) {
  const int64_t room = configuration.network.vocab_size;
  if (room != 0 && room < vocabulary_->size())
    throw UserError("network.vocab_size is {}, but {} has {} tokens; raise it, or set it to 0", room,
                    options_.vocabulary, vocabulary_->size());
  const auto length = static_cast<size_t>(options_.sequence_length - 2);
  uint64_t number = 0;
  for (size_t f = 0; f < cache_.files(); ++f) {
    const std::span<const int32_t> tokens = cache_.file(f);
    for (size_t begin = 0; begin < tokens.size(); begin += length) {
      const bool held_out = Draws(hash("held out"), 0, number++).uniform() < options_.test_share;
      (held_out ? test_ : train_).push_back(tokens.subspan(begin, std::min(length, tokens.size() - begin)));
    }
  }
  keep(train_, options_.train_limit);
  keep(test_, options_.test_limit);
  if (train_.empty() || test_.empty())
    throw UserError(
        "the text in {} makes {} sequences of {} tokens, of which data.test_share = {} leaves {} to train on "
        "and {} to test on; give it more text or another share",
        options_.path, number, options_.sequence_length, options_.test_share, train_.size(), test_.size());
  facts_ = {.extent = {1, options_.sequence_length},
            .vocabulary = vocabulary_->size(),
            .train = std::ssize(train_),
            .test = std::ssize(test_)};
}

std::unique_ptr<Batches> MaskedText::train_batches(const StageOptions& stage, uint64_t key, int64_t first,
                                                   int64_t, Share) const {
  auto reader = std::make_unique<Reader>(*this, train_, key, stage.batch_size, first);
  reader->shuffled();
  return reader;
}

std::unique_ptr<Batches> MaskedText::plain_batches(Split split, int64_t batch_size, int64_t,
                                                   int64_t first) const {
  return std::make_unique<Reader>(*this, split == Split::train ? train_ : test_, hash("plain batches"),
                                  batch_size, first);
}

}  // namespace taper
