#include "recipes/text/tokenizer.h"

#include <algorithm>

#include "recipes/text/unicode.h"
#include "runtime/error.h"

namespace taper {

namespace {
constexpr size_t kLongestWord = 100;          // characters, as BERT's max_input_chars_per_word
constexpr size_t kLongestRemembered = 64;     // bytes
constexpr size_t kMostRemembered = 1u << 18;  // then it forgets all: memory stays bounded
}  // namespace

Tokenizer::Tokenizer(std::shared_ptr<const Vocabulary> vocabulary, bool lowercase)
    : vocabulary_(std::move(vocabulary)), lowercase_(lowercase) {}

size_t Tokenizer::special(std::string_view text, int32_t& id) const {
  for (const std::string& token : Vocabulary::special_tokens()) {
    if (!text.starts_with(token)) continue;
    id = vocabulary_->find(token);
    return token.size();
  }
  return 0;
}

void Tokenizer::encode(std::string_view text, std::vector<Token>& tokens) {
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    int32_t id = 0;
    if (c == ' ') {
      ++at;
    } else if (const size_t bytes = c == '[' ? special(text.substr(at), id) : 0; bytes > 0) {
      tokens.push_back({id, static_cast<int64_t>(at), static_cast<int64_t>(at + bytes)});
      at += bytes;
    } else {
      size_t end = at + 1;
      if (!ends_word(c))
        while (end < text.size() && !ends_word(text[end])) ++end;
      add_run(text.substr(at, end - at), static_cast<int64_t>(at), tokens);
      at = end;
    }
  }
}

void Tokenizer::add_run(std::string_view run, int64_t at, std::vector<Token>& tokens) {
  auto add = [&](const Token* first, size_t count) {
    for (size_t i = 0; i < count; ++i)
      tokens.push_back({first[i].id, at + first[i].begin, at + first[i].end});
  };
  if (const auto found = remembered_.find(run); found != remembered_.end()) {
    add(remembered_tokens_.data() + found->second.first, found->second.count);
    return;
  }
  run_tokens_.clear();
  if (const int64_t invalid = invalid_utf8(run); invalid >= 0)
    throw UserError("the text is not UTF-8 at byte {}; convert it, or replace what is not UTF-8",
                    at + invalid);
  for_each_word(run, lowercase_, [&](std::span<const Letter> word) { add_word(word, run_tokens_); });
  if (run.size() <= kLongestRemembered) {
    if (remembered_.size() == kMostRemembered) {
      remembered_.clear();
      remembered_tokens_.clear();
    }
    remembered_.emplace(run, Remembered{static_cast<uint32_t>(remembered_tokens_.size()),
                                        static_cast<uint32_t>(run_tokens_.size())});
    remembered_tokens_.insert(remembered_tokens_.end(), run_tokens_.begin(), run_tokens_.end());
  }
  add(run_tokens_.data(), run_tokens_.size());
}

void Tokenizer::add_word(std::span<const Letter> word, std::vector<Token>& tokens) {
  const size_t before = tokens.size();
  auto is_unknown = [&] {
    tokens.resize(before);
    tokens.push_back({vocabulary_->unknown, word.front().begin, word.back().end});
  };
  if (word.size() > kLongestWord) return is_unknown();
  word_.clear();
  bounds_.assign(1, 0);
  for (const Letter& letter : word) {
    append_utf8(word_, letter.code);
    bounds_.push_back(static_cast<int64_t>(word_.size()));
  }
  for (size_t begin = 0; begin < word.size();) {
    int32_t id = -1;
    size_t end = word.size();
    while (end > begin && bounds_[end] - bounds_[begin] > vocabulary_->longest()) --end;
    for (; end > begin; --end) {
      const auto piece = std::string_view(word_).substr(static_cast<size_t>(bounds_[begin]),
                                                        static_cast<size_t>(bounds_[end] - bounds_[begin]));
      id = begin == 0 ? vocabulary_->find(piece) : vocabulary_->find_continuation(piece);
      if (id >= 0) break;
    }
    if (id < 0) return is_unknown();
    tokens.push_back({id, word[begin].begin, word[end - 1].end});
    begin = end;
  }
}

void to_character_offsets(std::string_view text, std::vector<Token>& tokens) {
  int64_t byte = 0, character = 0;
  // Offsets may step back by a character or two, where one character became several words.
  auto character_at = [&](int64_t wanted) {
    auto begins = [&](int64_t i) {
      return (static_cast<uint8_t>(text[static_cast<size_t>(i)]) & 0xC0) != 0x80;
    };
    while (byte < wanted) character += begins(byte++) ? 1 : 0;
    while (byte > wanted) character -= begins(--byte) ? 1 : 0;
    return character;
  };
  for (Token& token : tokens) {
    token.begin = character_at(token.begin);
    token.end = character_at(token.end);
  }
}

}  // namespace taper
