// taper tokenizer: text into tokens.

#include <cstdio>
#include <nlohmann/json.hpp>

#include "recipes/commands.h"
#include "recipes/progress.h"
#include "recipes/table.h"
#include "recipes/text/lines.h"
#include "recipes/text/tokenizer.h"
#include "recipes/text/trainer.h"
#include "runtime/error.h"

namespace taper {

void tokenizer_train_command(const std::vector<std::filesystem::path>& paths,
                             const std::filesystem::path& output, int64_t size, bool cased) {
  VocabularyTrainer trainer({.size = size, .lowercase = !cased});
  Pulse pulse;
  int64_t all_bytes = 0;
  for (const auto& path : paths) {
    if (std::filesystem::is_directory(path))
      throw UserError("{0} is a folder; name its files, as in {0}/*.txt", path.string());
    LineReader reader(path, InvalidText::refuse);
    for (std::string_view line; reader.next(line);) {
      trainer.add(line);
      pulse.beat([&] {
        return fmt::format("reading {}: {:.0f} MB, {} different words in all", path.string(),
                           1e-6 * static_cast<double>(reader.bytes()), grouped(trainer.different_runs()));
      });
    }
    if (reader.bytes() == 0) throw UserError("{} is empty; leave it out", path.string());
    all_bytes += reader.bytes();
  }
  auto tokens = trainer.train([&](int64_t done) {
    pulse.beat([&] { return fmt::format("merging: {} of {} tokens", grouped(done), grouped(size)); });
  });
  const Vocabulary vocabulary(std::move(tokens), "the vocabulary learnt");
  write_vocabulary(output, vocabulary);
  fmt::print(stderr, "wrote {} tokens, learnt from {:.1f} MB, to {}\n", grouped(vocabulary.size()),
             1e-6 * static_cast<double>(all_bytes), output.string());
  if (vocabulary.size() < size)
    fmt::print(stderr, "the text has no pair left that occurs twice, so there are fewer tokens than {}\n",
               grouped(size));
}

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
