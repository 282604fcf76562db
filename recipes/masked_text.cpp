#include "recipes/masked_text.h"

#include <algorithm>

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

MaskedText::MaskedText(const Configuration& configuration)
    : options_(configuration.data),
      vocabulary_(vocabulary_of(configuration)),
      cache_(source(options_, vocabulary_), options_.cache) {
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

AddSequence MaskedText::adder(const std::vector<std::span<const int32_t>>& split, uint64_t key) const {
  return [this, &split, key = fold(key, hash("mask"))](TextBatch& batch, int64_t sample, int64_t epoch) {
    const std::span<const int32_t> tokens = split[static_cast<size_t>(sample)];
    std::vector<int32_t> words(1, vocabulary_->cls), places, labels;
    words.insert(words.end(), tokens.begin(), tokens.end());
    words.push_back(vocabulary_->sep);
    const std::vector<int32_t> types(words.size());
    mask_tokens(words, *vocabulary_, {options_.mask_probability, options_.whole_word_masking},
                Draws(key, static_cast<uint64_t>(epoch), static_cast<uint64_t>(sample)), places, labels);
    batch.add(sample, words, types, places, labels);
  };
}

std::unique_ptr<Batches> MaskedText::train_batches(const StageOptions& stage, uint64_t key, int64_t first,
                                                   int64_t, Share) const {
  return std::make_unique<TextBatches>(adder(train_, key), TextBatches::Order::shuffled, facts_.train,
                                       stage.batch_size, key, first);
}

std::unique_ptr<Batches> MaskedText::plain_batches(Split split, int64_t batch_size, int64_t,
                                                   int64_t first) const {
  const uint64_t key = hash("plain batches");
  return std::make_unique<TextBatches>(adder(split == Split::train ? train_ : test_, key),
                                       TextBatches::Order::plain, size(split), batch_size, key, first);
}

}  // namespace taper
