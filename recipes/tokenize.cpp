// taper tokenizer: text into tokens.

#include <cstdio>
#include <nlohmann/json.hpp>

#include "recipes/commands.h"
#include "recipes/text/lines.h"
#include "recipes/text/tokenizer.h"
#include "runtime/error.h"

namespace taper {

void tokenizer_encode_command(const std::filesystem::path& vocabulary_path,
                              const EncodeArguments& arguments) {
  auto vocabulary = std::make_shared<const Vocabulary>(read_vocabulary(vocabulary_path));
  Tokenizer tokenizer(vocabulary, !arguments.cased);
  LineReader reader(stdin, "standard input", arguments.replace ? InvalidText::replace : InvalidText::refuse);
  std::vector<Token> tokens;
  fmt::memory_buffer out;
  for (std::string_view line; reader.next(line);) {
    tokens.assign(1, {vocabulary->cls, 0, 0});
    tokenizer.encode(line, tokens);
    tokens.push_back({vocabulary->sep, 0, 0});
    if (arguments.offsets || arguments.json) to_character_offsets(line, tokens);
    out.clear();
    if (arguments.json) {
      nlohmann::ordered_json row = {{"ids", nlohmann::json::array()}, {"tokens", nlohmann::json::array()}};
      if (arguments.offsets) row["offsets"] = nlohmann::json::array();
      for (const Token& token : tokens) {
        row["ids"].push_back(token.id);
        row["tokens"].push_back(vocabulary->token(token.id));
        if (arguments.offsets) row["offsets"].push_back({token.begin, token.end});
      }
      fmt::format_to(std::back_inserter(out), "{}", row.dump());
    } else {
      for (const Token& token : tokens) {
        if (out.size() > 0) out.push_back(' ');
        fmt::format_to(std::back_inserter(out), "{}", token.id);
        if (arguments.offsets) fmt::format_to(std::back_inserter(out), ":{}-{}", token.begin, token.end);
      }
    }
    out.push_back('\n');
    if (std::fwrite(out.data(), 1, out.size(), stdout) != out.size())
      throw Failure("standard output could not be written after line {}", reader.lines() - 1);
  }
  if (std::fflush(stdout) != 0) throw Failure("standard output could not be written");
}

}  // namespace taper
