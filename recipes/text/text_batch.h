#pragma once
// Token sequences of one step, packed.

#include <cstdint>
#include <span>
#include <vector>

#include "recipes/batch.h"

namespace taper {

/// Sequences one after the other; a shard's rows hold its own sequences and no padding. Labels belong to the
/// masked tokens, or, where nothing is masked, to the sequences: one each, or two, an answer's first and last
/// token.
struct TextBatch final : Batch {
  ShardInput upload(Tape& tape, int64_t begin, int64_t end) const override;
  int64_t items() const override { return std::ssize(words); }

  /// Adds a sequence of words and their types (of one length, up to 2^20), called `sample` for dropout: the
  /// same sample in another batch, at another place, drops the same. `masked`: places in the sequence,
  /// ascending.
  void add(int64_t sample, std::span<const int32_t> its_words, std::span<const int32_t> its_types,
           std::span<const int32_t> masked, std::span<const int32_t> its_labels);

  std::vector<int32_t> words, types;     // [tokens]
  std::vector<int64_t> offsets{0};       // [count + 1], into words
  std::vector<int64_t> samples;          // [count]
  std::vector<int32_t> places;           // [masked tokens], in their sequences
  std::vector<int64_t> mask_offsets{0};  // [count + 1], into places
  std::vector<int32_t> labels;
  std::vector<float> scores;  // [count] of a regression, else empty
  uint64_t dropout_key = 0;   // of this step
};

}  // namespace taper
