#include "recipes/text/vocabulary.h"

#include <algorithm>

#include "recipes/text/unicode.h"
#include "runtime/error.h"
#include "runtime/file.h"

namespace taper {

namespace {
constexpr size_t kLongestToken = 1024;
constexpr int64_t kLargestFile = int64_t{256} << 20;
constexpr std::string_view kContinues = "##";
}  // namespace

const std::vector<std::string>& Vocabulary::special_tokens() {
  static const std::vector<std::string> kTokens = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
  return kTokens;
}

Vocabulary::Vocabulary(std::vector<std::string> tokens, const std::string& source)
    : tokens_(std::move(tokens)) {
  if (tokens_.empty()) throw UserError("{} has no tokens; a vocab.txt has one on each line", source);
  if (tokens_.size() > INT32_MAX) throw UserError("{} has {} tokens, too many", source, tokens_.size());
  ids_.reserve(tokens_.size());
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const std::string& token = tokens_[i];
    const auto id = static_cast<int32_t>(i);
    if (token.empty())
      throw UserError("{}: line {} is empty; a vocab.txt has one token on each line", source, i + 1);
    if (token.size() > kLongestToken)
      throw UserError(
          "{}: line {} has {} bytes, and a token has at most {}; a vocab.txt has one token on each line",
          source, i + 1, token.size(), kLongestToken);
    if (const int64_t at = invalid_utf8(token); at >= 0)
      throw UserError("{}: line {} is not UTF-8 at its byte {}; convert the file", source, i + 1, at + 1);
    const auto [place, is_new] = ids_.emplace(token, id);
    if (!is_new)
      throw UserError("{}: line {} repeats the token \"{}\" of line {}; each has one id, so remove one",
                      source, i + 1, token, place->second + 1);
    std::string_view piece = token;
    if (piece.starts_with(kContinues)) {
      piece.remove_prefix(kContinues.size());
      continuations_.emplace(piece, id);
    }
    longest_ = std::max(longest_, static_cast<int64_t>(piece.size()));
  }
  std::vector<std::string> missing;
  for (const std::string& token : special_tokens())
    if (find(token) < 0) missing.push_back(token);
  if (!missing.empty())
    throw UserError("{} has no {}; BERT needs {}, each on a line of its own", source,
                    fmt::join(missing, ", "), fmt::join(special_tokens(), ", "));
  pad = find("[PAD]");
  unknown = find("[UNK]");
  cls = find("[CLS]");
  sep = find("[SEP]");
  mask = find("[MASK]");
}

Vocabulary read_vocabulary(const std::filesystem::path& path) {
  const auto bytes = read_file(path, kLargestFile);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::vector<std::string> tokens;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.size() <= kLongestToken) {
      if (const int64_t at = invalid_utf8(line); at >= 0)
        throw UserError("{}: line {} is not UTF-8 at byte {} of the file; convert the file", path.string(),
                        tokens.size() + 1, static_cast<int64_t>(begin) + at);
    }
    tokens.emplace_back(line);
    begin = end + 1;
  }
  return {std::move(tokens), path.string()};
}

void write_vocabulary(const std::filesystem::path& path, const Vocabulary& vocabulary) {
  std::string text;
  for (int64_t id = 0; id < vocabulary.size(); ++id)
    text += vocabulary.token(static_cast<int32_t>(id)) + "\n";
  write_file_atomically(path, text);
}

}  // namespace taper
