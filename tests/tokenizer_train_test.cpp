// Vocabularies learnt from text, against merges done by hand.

#include <gmock/gmock.h>

#include "recipes/text/tokenizer.h"
#include "recipes/text/trainer.h"
#include "runtime/error.h"

namespace taper {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> learnt(const std::vector<std::string>& lines, const TrainerOptions& options) {
  VocabularyTrainer trainer(options);
  for (const std::string& line : lines) trainer.add(line);
  std::vector<std::string> tokens = trainer.train([](int64_t) {});
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(tokens.at(i), Vocabulary::special_tokens()[i]);
  tokens.erase(tokens.begin(), tokens.begin() + 5);
  return tokens;
}

// ab (3), abc (2), bc (1). Pairs: a ##b 5, ##b ##c 2, b ##c 1. After "ab": ab ##c 2; ##b ##c is gone.
TEST(VocabularyTrainer, MergesTheMostFrequentPairByHand) {
  const std::vector<std::string> text = {"ab abc AB", "ab\tabc,bc"};
  EXPECT_THAT(learnt(text, {.size = 100}), ElementsAre(",", "a", "b", "c", "##b", "##c", "ab", "abc"));
  EXPECT_THAT(learnt(text, {.size = 100, .min_frequency = 1}),
              ElementsAre(",", "a", "b", "c", "##b", "##c", "ab", "abc", "bc"));
  EXPECT_THAT(learnt(text, {.size = 12}), ElementsAre(",", "a", "b", "c", "##b", "##c", "ab"));
}

// xy and zw, twice each. Ids: w 5, x 6, y 7, z 8, ##y 9, ##w 10: x ##y comes before z ##w.
TEST(VocabularyTrainer, BreaksTiesBySmallerIds) {
  EXPECT_THAT(learnt({"zw xy zw xy"}, {.size = 12}), ElementsAre("w", "x", "y", "z", "##y", "##w", "xy"));
}

// aaaa twice: a ##a 2, ##a ##a 4. "##aa" from the left leaves a ##aa ##a, so a ##aa and ##aa ##a have 2 each:
// ids a 5, ##a 6, ##aa 7: a ##aa first, then aaa ##a.
TEST(VocabularyTrainer, MergesRepeatedLettersFromTheLeft) {
  EXPECT_THAT(learnt({"aaaa aaaa"}, {.size = 100}), ElementsAre("a", "##a", "##aa", "aaa", "aaaa"));
}

TEST(VocabularyTrainer, KeepsTheMostFrequentCharacters) {
  EXPECT_THAT(learnt({"b b b c c a a"}, {.size = 100, .alphabet = 2}), ElementsAre("a", "b"))
      << "of a and c, as frequent as each other, the smaller";
}

TEST(VocabularyTrainer, FollowsCase) {
  EXPECT_THAT(learnt({"É"}, {.size = 100}), ElementsAre("e"));
  EXPECT_THAT(learnt({"É"}, {.size = 100, .lowercase = false}), ElementsAre("É"));
}

TEST(VocabularyTrainer, DoesNotDependOnTheOrderOfText) {
  std::vector<std::string> lines;
  for (int i = 0; i < 300; ++i) lines.push_back(fmt::format("{} {:x} {:o}", i * i * i, i * 7919, i * 104729));
  const auto forward = learnt(lines, {.size = 400});
  std::reverse(lines.begin(), lines.end());
  EXPECT_EQ(learnt(lines, {.size = 400}), forward);
  EXPECT_EQ(forward.size(), 395U);
}

TEST(VocabularyTrainer, SaysWhyItCannotLearn) {
  auto complaint = [](const std::vector<std::string>& lines, int64_t size) -> std::string {
    try {
      learnt(lines, {.size = size});
    } catch (const UserError& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(complaint({}, 100), HasSubstr("no words"));
  EXPECT_THAT(complaint({"\x01 \t", std::string(101, 'a')}, 100), HasSubstr("no words"));
  EXPECT_THAT(complaint({"abc"}, 9), HasSubstr("no room for the 10 special tokens and characters"));
  EXPECT_THAT(complaint({"\xff"}, 9), HasSubstr("not UTF-8"));
}

}  // namespace
}  // namespace taper
