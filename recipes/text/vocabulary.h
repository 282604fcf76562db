#pragma once
// A WordPiece vocabulary: vocab.txt, one token a line, its id the number of the line from 0.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace taper {

/// Finds strings by views of them.
struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
template <typename Value>
using TextMap = std::unordered_map<std::string, Value, TextHash, std::equal_to<>>;

class Vocabulary {
 public:
  /// BERT's special tokens, in the order of trained vocabularies: [PAD], [UNK], [CLS], [SEP], [MASK].
  static const std::vector<std::string>& special_tokens();

  /// `source` names the tokens' origin in errors. UserError names the line of a token that is empty, longer
  /// than 1,024 bytes, not UTF-8 or there twice, and any special token that is missing.
  Vocabulary(std::vector<std::string> tokens, const std::string& source);

  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  /// `id` in [0, size()).
  const std::string& token(int32_t id) const { return tokens_.at(static_cast<size_t>(id)); }
  /// The token's id, or -1.
  int32_t find(std::string_view token) const { return find(ids_, token); }
  /// The id of the token "##" + `piece`, or -1.
  int32_t find_continuation(std::string_view piece) const { return find(continuations_, piece); }
  /// Bytes of the longest token, without its "##".
  int64_t longest() const { return longest_; }

  int32_t pad, unknown, cls, sep, mask;

 private:
  static int32_t find(const TextMap<int32_t>& ids, std::string_view key) {
    const auto found = ids.find(key);
    return found == ids.end() ? -1 : found->second;
  }

  std::vector<std::string> tokens_;
  TextMap<int32_t> ids_, continuations_;
  int64_t longest_ = 0;
};

/// Reads a vocab.txt; lines may end in CR LF. UserError as Vocabulary, and as read_file; files past 256 MiB
/// are refused.
Vocabulary read_vocabulary(const std::filesystem::path& path);

/// Writes it whole or not at all.
void write_vocabulary(const std::filesystem::path& path, const Vocabulary& vocabulary);

}  // namespace taper
