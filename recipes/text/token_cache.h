#pragma once
// Text files as one long list of tokens, tokenised once and kept on disk.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "recipes/text/lines.h"
#include "recipes/text/vocabulary.h"
#include "runtime/mapped_file.h"

namespace taper {

/// What decides the tokens.
struct TextSource {
  std::vector<std::filesystem::path> files;
  std::shared_ptr<const Vocabulary> vocabulary;
  bool lowercase = true;
  InvalidText invalid = InvalidText::refuse;
};

/// `path` itself if it is a file; the files *.txt anywhere in it, in byte order of their paths, if it is a
/// folder. UserError: it is not there, or there are none.
std::vector<std::filesystem::path> text_files(const std::filesystem::path& path);

/// The tokens of all files, memory-mapped. An empty line ends a document; where another follows in the same
/// file, [SEP] stands between the two (RoBERTa's FULL-SENTENCES, Liu et al., arXiv 1907.11692, section 4.2).
class TokenCache {
 public:
  /// Opens the cache of this source in `folder`, or tokenises the files, in memory that does not grow with
  /// them, and writes it there, whole or not at all. Its name is a hash of the files' content, the vocabulary
  /// and the options, so what has changed is tokenised anew; a cache that is damaged is remade, with a
  /// sentence on standard error. Of several processes, one writes and the others wait for it. UserError names
  /// a file that is empty or not text, and the line and byte.
  TokenCache(const TextSource& source, const std::filesystem::path& folder);

  /// The tokens of file `i`, without [CLS] and a last [SEP].
  std::span<const int32_t> file(size_t i) const {
    return tokens_.subspan(static_cast<size_t>(starts_[i]), static_cast<size_t>(starts_[i + 1] - starts_[i]));
  }
  size_t files() const { return starts_.size() - 1; }
  /// Its file's: the hash of all that decides the tokens.
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  std::optional<MappedFile> mapped_;
  std::span<const int64_t> starts_;
  std::span<const int32_t> tokens_;
};

}  // namespace taper
