// BERT's tokenizer against Hugging Face's (tests/golden/make_tokenizer_golden.py), by hand, and on bad input.

#include "recipes/text/tokenizer.h"

#include <gmock/gmock.h>
#include <zlib.h>

#include "recipes/text/lines.h"
#include "recipes/text/unicode.h"
#include "tests/data_files.h"

namespace taper {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

nlohmann::json golden_values() {
  std::ifstream file(std::string(TAPER_SOURCE_DIR) + "/tests/golden/tokenizer.json");
  return nlohmann::json::parse(file);
}

std::vector<std::string> with_special(std::vector<std::string> tokens) {
  tokens.insert(tokens.begin(), Vocabulary::special_tokens().begin(), Vocabulary::special_tokens().end());
  return tokens;
}

Tokenizer make_tokenizer(const std::vector<std::string>& tokens, bool lowercase) {
  return {std::make_shared<const Vocabulary>(tokens, "vocab"), lowercase};
}

/// "id:begin-end ..." in bytes.
std::string encoded(Tokenizer& tokenizer, std::string_view text) {
  std::vector<Token> tokens;
  tokenizer.encode(text, tokens);
  std::string result;
  for (const Token& token : tokens) result += fmt::format("{}:{}-{} ", token.id, token.begin, token.end);
  return result;
}

template <typename Function>
std::string complaint(Function function) {
  try {
    function();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Tokenizer, FollowsTheLongestMatchByHand) {
  // 5 un, 6 ##aff, 7 ##able, 8 ##affable, 9 "!"
  Tokenizer tokenizer = make_tokenizer(with_special({"un", "##aff", "##able", "##affable", "!"}), true);
  EXPECT_EQ(encoded(tokenizer, "Unaffable!"), "5:0-2 8:2-9 9:9-10 ");
  EXPECT_EQ(encoded(tokenizer, "unaff unx"), "5:0-2 6:2-5 1:6-9 ");
  EXPECT_EQ(encoded(tokenizer, "un[MASK]ÚN"), "5:0-2 4:2-8 5:8-11 ") << "Ú has two bytes";
  EXPECT_EQ(encoded(tokenizer, ""), "");
  EXPECT_EQ(encoded(tokenizer, "#"), "1:0-1 ");
}

TEST(Tokenizer, EqualsHuggingFaceOnHardText) {
  const nlohmann::json values = golden_values();
  const auto vocabulary = values.at("vocabulary").get<std::vector<std::string>>();
  for (const std::string kind : {"uncased", "cased"}) {
    Tokenizer tokenizer = make_tokenizer(vocabulary, kind == "uncased");
    for (int pass = 0; pass < 2; ++pass) {  // the second time from memory
      for (size_t i = 0; i < values.at("texts").size(); ++i) {
        const auto text = values.at("texts")[i].get<std::string>();
        std::vector<Token> tokens = {{tokenizer.vocabulary().cls, 0, 0}};
        tokenizer.encode(text, tokens);
        tokens.push_back({tokenizer.vocabulary().sep, 0, 0});
        to_character_offsets(text, tokens);
        std::vector<int32_t> ids;
        std::vector<std::array<int64_t, 2>> offsets;
        for (const Token& token : tokens) {
          ids.push_back(token.id);
          offsets.push_back({token.begin, token.end});
        }
        EXPECT_EQ(nlohmann::json(ids), values.at(kind)[i].at("ids")) << kind << " text " << i << ": " << text;
        EXPECT_EQ(nlohmann::json(offsets), values.at(kind)[i].at("offsets"))
            << kind << " text " << i << ": " << text;
      }
    }
  }
}

TEST(Tokenizer, CutsEveryCharacterAsHuggingFaceDoes) {
  const nlohmann::json values = golden_values();
  for (const std::string kind : {"uncased", "cased"}) {
    uLong checksum = 0;
    std::string text, words;
    for (int32_t code = 0; code < 0x110000; ++code) {
      if (code >= 0xD800 && code < 0xE000) continue;
      text = "x";
      append_utf8(text, code);
      append_utf8(text, 0x334);
      text += 'x';
      words.clear();
      for_each_word(text, kind == "uncased", [&](std::span<const Letter> word) {
        if (!words.empty()) words += ' ';
        for (const Letter& letter : word) append_utf8(words, letter.code);
      });
      words += '\n';
      checksum =
          crc32(checksum, reinterpret_cast<const Bytef*>(words.data()), static_cast<uInt>(words.size()));
    }
    EXPECT_EQ(checksum, values.at(kind + "_characters").get<uLong>()) << kind;
  }
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  Tokenizer tokenizer = make_tokenizer(with_special({"a"}), true);
  for (const std::string bad : {"\xff", "\xc3", "\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80"})
    EXPECT_THAT(complaint([&] { encoded(tokenizer, "a a " + bad); }), HasSubstr("not UTF-8 at byte 4"));
  EXPECT_EQ(encoded(tokenizer, "a"), "5:0-1 ") << "it goes on after an error";
}

TEST(Tokenizer, ReplacesAsPythonDoes) {
  EXPECT_EQ(replace_invalid_utf8("a\xff"
                                 "b"),
            "a\uFFFDb");
  EXPECT_EQ(replace_invalid_utf8("\xf0\x9f\x92"
                                 "x"),
            "\uFFFDx")
      << "one for the part that could begin a character";
  EXPECT_EQ(replace_invalid_utf8("\xed\xa0\x80"), "\uFFFD\uFFFD\uFFFD") << "a surrogate cannot";
}

TEST(Vocabulary, NamesWhatIsWrong) {
  auto wrong = [](std::vector<std::string> tokens) {
    return complaint([&] { Vocabulary(std::move(tokens), "v.txt"); });
  };
  EXPECT_THAT(wrong({}), HasSubstr("v.txt has no tokens"));
  EXPECT_THAT(wrong({"[PAD]", "[UNK]", "[CLS]", "[SEP]"}), HasSubstr("v.txt has no [MASK];"));
  EXPECT_THAT(wrong(with_special({"a", "b", "a"})), HasSubstr("line 8 repeats the token \"a\" of line 6"));
  EXPECT_THAT(wrong(with_special({"", "a"})), HasSubstr("line 6 is empty"));
  EXPECT_THAT(wrong(with_special({std::string(100 << 20, 'a')})), HasSubstr("line 6 has 104857600 bytes"));
}

TEST(Vocabulary, ReadsWhatItWrites) {
  TemporaryFolder folder;
  const Vocabulary vocabulary(with_special({"a", "##b", "你"}), "here");
  const std::string path = folder.path() + "/vocab.txt";
  write_vocabulary(path, vocabulary);
  const Vocabulary read = read_vocabulary(path);
  ASSERT_EQ(read.size(), 8);
  for (int32_t id = 0; id < 8; ++id) EXPECT_EQ(read.token(id), vocabulary.token(id));
  EXPECT_EQ(read.find_continuation("b"), 6);
  EXPECT_EQ(read.find_continuation("a"), -1);
  EXPECT_EQ(read.longest(), 6);
}

TEST(Vocabulary, ReadsLinesOfWindowsAndNamesBytes) {
  TemporaryFolder folder;
  const std::string text = "[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\n[MASK]\r\na";
  EXPECT_EQ(read_vocabulary(folder.write("v.txt", {text.begin(), text.end()})).find("a"), 5);
  const std::string bad = "[PAD]\n\xff";
  const std::string path = folder.write("bad.txt", {bad.begin(), bad.end()});
  EXPECT_THAT(complaint([&] { read_vocabulary(path); }), HasSubstr("bad.txt: line 2 is not UTF-8 at byte 6"));
}

std::vector<std::string> lines_of(const std::string& path, InvalidText invalid) {
  LineReader reader(path, invalid);
  std::vector<std::string> lines;
  for (std::string_view line; reader.next(line);) lines.emplace_back(line);
  return lines;
}

TEST(LineReader, ReadsLinesAcrossBlocks) {
  TemporaryFolder folder;
  const std::string longer(700'000, 'x');  // more than two blocks
  const std::string text = "a\n\n" + longer + "\nb";
  const std::string path = folder.write("t", {text.begin(), text.end()});
  EXPECT_THAT(lines_of(path, InvalidText::refuse), ElementsAre("a", "", longer, "b"));
  EXPECT_THAT(lines_of(folder.write("empty", {}), InvalidText::refuse), ElementsAre());
  EXPECT_THAT(complaint([&] { lines_of(folder.path() + "/none", InvalidText::refuse); }),
              HasSubstr("none cannot be read"));
}

TEST(LineReader, NamesTheByteThatIsNotUtf8) {
  TemporaryFolder folder;
  const std::string text =
      "good\nb\xff"
      "d\n";
  const std::string path = folder.write("t", {text.begin(), text.end()});
  EXPECT_THAT(complaint([&] { lines_of(path, InvalidText::refuse); }),
              HasSubstr("line 2 is not UTF-8 at byte 6"));
  EXPECT_THAT(lines_of(path, InvalidText::replace), ElementsAre("good", "b\uFFFDd"));
}

TEST(LineReader, RefusesALineWithoutEnd) {
  TemporaryFolder folder;
  const std::string path = folder.write("t", std::vector<uint8_t>(100 << 20, 'a'));
  EXPECT_THAT(complaint([&] { lines_of(path, InvalidText::refuse); }),
              HasSubstr("line 1, from byte 0, is longer than 16 MiB"));
}

}  // namespace
}  // namespace taper
