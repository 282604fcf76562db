// Any bytes as text, cased and uncased, with a vocabulary learnt from it: UserError, or tokens whose bytes
// lie in the text and in its order up to the few characters that NFD moves. Up to the first NUL the input is
// also a vocab.txt.

#include <cstdint>
#include <cstdlib>

#include "recipes/text/tokenizer.h"
#include "recipes/text/trainer.h"
#include "recipes/text/unicode.h"
#include "runtime/error.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

std::vector<taper::Token> encode(const std::vector<std::string>& vocabulary, bool lowercase,
                                 std::string_view text) {
  taper::Tokenizer tokenizer(std::make_shared<const taper::Vocabulary>(vocabulary, "input"), lowercase);
  std::vector<taper::Token> tokens, again;
  tokenizer.encode(text, tokens);
  tokenizer.encode(text, again);
  require(tokens.size() == again.size());
  const auto size = static_cast<int64_t>(text.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    const taper::Token &token = tokens[i], &other = again[i];
    require(token.id == other.id && token.begin == other.begin && token.end == other.end);
    require(token.begin >= 0 && token.begin < token.end && token.end <= size);
    require(i == 0 || tokens[i - 1].begin <= token.begin);
  }
  taper::to_character_offsets(text, tokens);
  return tokens;
}

void fuzz(std::string_view text) {
  using namespace taper;
  for (const bool lowercase : {false, true}) {
    VocabularyTrainer trainer({.size = 300, .lowercase = lowercase});
    trainer.add(text);
    encode(trainer.train([](int64_t) {}), lowercase, text);
  }
  std::vector<std::string> lines = Vocabulary::special_tokens();
  const std::string_view vocabulary = text.substr(0, text.find('\0'));
  for (size_t begin = 0; begin < vocabulary.size();) {
    const size_t end = std::min(vocabulary.find('\n', begin), vocabulary.size());
    lines.emplace_back(vocabulary.substr(begin, end - begin));
    begin = end + 1;
  }
  encode(lines, true, text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    require(taper::invalid_utf8(taper::replace_invalid_utf8(text)) < 0);
    if (taper::invalid_utf8(text) >= 0) {
      fuzz(taper::replace_invalid_utf8(text));
    }
    fuzz(text);
  } catch (const taper::UserError&) {
    return 0;
  }
  return 0;
}
