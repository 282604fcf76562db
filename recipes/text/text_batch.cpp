#include "recipes/text/text_batch.h"

#include "runtime/error.h"

namespace taper {

namespace {

// Names a token by its sequence and position.
constexpr int kPositionBits = 20;

template <typename T>
std::span<const T> part(const std::vector<T>& values, int64_t begin, int64_t end) {
  return std::span(values).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
}

}  // namespace

void TextBatch::add(int64_t sample, std::span<const int32_t> its_words, std::span<const int32_t> its_types,
                    std::span<const int32_t> masked, std::span<const int32_t> its_labels) {
  TAPER_CHECK(!its_words.empty() && its_words.size() == its_types.size() &&
                  std::ssize(its_words) <= int64_t{1} << kPositionBits,
              "{} words, {} types", its_words.size(), its_types.size());
  words.insert(words.end(), its_words.begin(), its_words.end());
  types.insert(types.end(), its_types.begin(), its_types.end());
  places.insert(places.end(), masked.begin(), masked.end());
  labels.insert(labels.end(), its_labels.begin(), its_labels.end());
  offsets.push_back(std::ssize(words));
  mask_offsets.push_back(std::ssize(places));
  samples.push_back(sample);
  ++count;
}

ShardInput TextBatch::upload(Tape& tape, int64_t begin, int64_t end) const {
  Stream& stream = tape.stream;
  const int64_t first = offsets[static_cast<size_t>(begin)], rows = offsets[static_cast<size_t>(end)] - first;
  std::vector<int32_t> starts{0}, input, positions, masked;
  std::vector<int64_t> token_ids;
  for (int64_t i = begin; i < end; ++i) {
    const auto at = static_cast<size_t>(i);
    const auto start = static_cast<int32_t>(offsets[at] - first);
    const auto length = static_cast<int32_t>(offsets[at + 1] - offsets[at]);
    for (int32_t position = 0; position < length; ++position) {
      positions.push_back(position);
      token_ids.push_back(samples[at] << kPositionBits | position);
    }
    for (int64_t k = mask_offsets[at]; k < mask_offsets[at + 1]; ++k)
      masked.push_back(start + places[static_cast<size_t>(k)]);
    starts.push_back(start + length);
  }
  for (std::span<const int32_t> row : {part(words, first, first + rows), std::span<const int32_t>(positions),
                                       part(types, first, first + rows)})
    input.insert(input.end(), row.begin(), row.end());

  auto sequences = std::make_unique<Sequences>();
  sequences->offsets = Tensor::from<int32_t>(stream, {std::ssize(starts)}, starts);
  sequences->sample_ids = Tensor::from<int64_t>(stream, {end - begin}, part(samples, begin, end));
  sequences->token_ids = Tensor::from<int64_t>(stream, {rows}, token_ids);
  if (!masked.empty()) sequences->masked = Tensor::from<int32_t>(stream, {std::ssize(masked)}, masked);
  sequences->key = dropout_key;
  tape.sequences = sequences.get();
  const int64_t each = std::ssize(labels) / count;  // of sequences that have labels themselves
  const std::span<const int32_t> own = places.empty() ? part(labels, each * begin, each * end)
                                                      : part(labels, mask_offsets[static_cast<size_t>(begin)],
                                                             mask_offsets[static_cast<size_t>(end)]);
  ShardInput result{tape.constant(Tensor::from<int32_t>(stream, {3, rows}, input)),
                    Tensor::from<int32_t>(stream, {std::ssize(own)}, own), end - begin, std::move(sequences)};
  if (!scores.empty())
    result.scores = Tensor::from<float>(stream, {end - begin, 1}, part(scores, begin, end));
  result.spans = places.empty() && each == 2;
  return result;
}

}  // namespace taper
