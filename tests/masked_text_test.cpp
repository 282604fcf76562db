// Text as a run reads it: tokens, sequences, masks, and steps on them.

#include "recipes/masked_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <map>
#include <set>

#include "layers/bert.h"
#include "layers/weights.h"
#include "recipes/step.h"
#include "recipes/text/text_batch.h"
#include "recipes/text/tokenizer.h"
#include "runtime/file.h"
#include "tests/small_text.h"

namespace taper {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

template <typename F>
std::string error_of(F f) {
  try {
    f();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

Configuration configuration(const SmallText& text, std::vector<std::string> more = {}) {
  std::vector<std::string> settings = text.settings();
  settings.insert(settings.end(), {"data.train_limit=0", "data.test_limit=0"});
  settings.insert(settings.end(), more.begin(), more.end());
  return read_configuration(TAPER_SOURCE_DIR "/recipes/configurations/tiny-bert.toml", settings);
}

TextBatch next(Batches& batches) { return dynamic_cast<TextBatch&>(*batches.next()); }

bool same(const TextBatch& a, const TextBatch& b) {
  return a.words == b.words && a.offsets == b.offsets && a.samples == b.samples && a.places == b.places &&
         a.labels == b.labels && a.dropout_key == b.dropout_key;
}

// 8 words of 2 tokens, 8 of 1, in one sequence, again and again.
TEST(Masking, TakesWordsAndReplacesThemByTheRule) {
  std::vector<std::string> tokens = Vocabulary::special_tokens();
  for (int i = 0; i < 16; ++i) tokens.push_back(std::string(1, static_cast<char>('a' + i)));
  tokens.emplace_back("##x");
  Vocabulary vocabulary(tokens, "the test");
  const int32_t a = vocabulary.find("a"), x = vocabulary.find("##x");
  std::vector<int32_t> whole{vocabulary.cls};
  for (int32_t i = 0; i < 16; ++i) {
    whole.push_back(a + i);
    if (i % 2 == 0) whole.push_back(x);
  }
  whole.insert(whole.begin() + 4, vocabulary.sep);
  whole.push_back(vocabulary.sep);
  const auto n = static_cast<int64_t>(whole.size());  // 27: round(0.3 n) = 8
  int64_t taken = 0, masked = 0, kept = 0;
  std::map<int32_t, int64_t> by_place;
  constexpr int64_t kTrials = 4000;
  for (bool whole_words : {false, true})
    for (int64_t trial = 0; trial < kTrials; ++trial) {
      std::vector<int32_t> sequence = whole, places, labels;
      mask_tokens(sequence, vocabulary, {0.3, whole_words}, Draws(1, 2, static_cast<uint64_t>(trial)), places,
                  labels);
      ASSERT_EQ(places.size(), labels.size());
      ASSERT_TRUE(whole_words ? places.size() == 8 || places.size() == 7 : places.size() == 8);
      ASSERT_TRUE(std::is_sorted(places.begin(), places.end()));
      std::set<int32_t> set(places.begin(), places.end());
      ASSERT_EQ(set.size(), places.size());
      for (int32_t i = 0; i < n; ++i) ASSERT_TRUE(set.contains(i) || sequence[i] == whole[i]);
      for (size_t k = 0; k < places.size(); ++k) {
        const int32_t place = places[k];
        ASSERT_EQ(labels[k], whole[place]);
        ASSERT_TRUE(whole[place] != vocabulary.cls && whole[place] != vocabulary.sep);
        ASSERT_TRUE(!whole_words || whole[place] != x || set.contains(place - 1));
        ASSERT_TRUE(!whole_words || whole[place + 1] != x || set.contains(place + 1));
        ++taken;
        masked += sequence[place] == vocabulary.mask;
        kept += sequence[place] == whole[place];
        if (!whole_words) ++by_place[place];
      }
    }
  // Five deviations of a binomial count; a random token is the old one, or [MASK], once in 22 times.
  const auto all = static_cast<double>(taken);
  auto near = [&](int64_t count, double share) {
    EXPECT_NEAR(static_cast<double>(count) / all, share, 5 * std::sqrt(share * (1 - share) / all));
  };
  near(masked, 0.8 + 0.1 / 22);
  near(kept, 0.1 + 0.1 / 22);
  EXPECT_EQ(by_place.size(), 24u);
  for (const auto& [place, count] : by_place)
    EXPECT_NEAR(static_cast<double>(count), kTrials / 3.0, 5 * std::sqrt(kTrials * 2.0 / 9)) << place;
}

TEST(Masking, TakesAtLeastOne) {
  Vocabulary vocabulary(Vocabulary::special_tokens(), "the test");
  for (int32_t only : {vocabulary.unknown, vocabulary.sep}) {
    std::vector<int32_t> sequence{vocabulary.cls, only, vocabulary.sep}, places, labels;
    mask_tokens(sequence, vocabulary, {0.01, false}, Draws(1, 2, 3), places, labels);
    EXPECT_EQ(places, std::vector<int32_t>{1});
    EXPECT_EQ(labels, std::vector<int32_t>{only});
  }
}

class TokenCacheTest : public testing::Test {
 protected:
  TextSource source(InvalidText invalid = InvalidText::refuse) const {
    return {text_files(text_.folder / "corpus"), vocabulary_, true, invalid};
  }
  std::vector<int32_t> tokens(InvalidText invalid = InvalidText::refuse) const {
    TokenCache cache(source(invalid), text_.folder / "cache");
    std::vector<int32_t> all;
    for (size_t i = 0; i < cache.files(); ++i)
      all.insert(all.end(), cache.file(i).begin(), cache.file(i).end());
    return all;
  }
  std::vector<fs::path> caches() const {
    std::vector<fs::path> all;
    for (const auto& entry : fs::directory_iterator(text_.folder / "cache"))
      if (entry.path().filename() != ".lock") all.push_back(entry.path());
    return all;
  }
  void write(const std::string& name, const std::string& content) const {
    std::ofstream(text_.folder / "corpus" / name, std::ios::binary) << content;
  }

  SmallText text_{"token-cache", 40};
  std::shared_ptr<const Vocabulary> vocabulary_ =
      std::make_shared<const Vocabulary>(read_vocabulary(text_.folder / "vocab.txt"));
};

TEST_F(TokenCacheTest, HoldsTheFilesTokensWithSepBetweenDocuments) {
  fs::remove(text_.folder / "corpus/one.txt");
  fs::remove(text_.folder / "corpus/two.txt");
  write("b.txt", "\n\nher teacher\nfollows\n\n \n\nher teacher\n\n");
  write("a.txt", "nothing");
  TokenCache cache(source(), text_.folder / "cache");
  ASSERT_EQ(cache.files(), 2u);
  Tokenizer tokenizer(vocabulary_, true);
  auto ids = [&](const std::string& line) {
    std::vector<Token> found;
    tokenizer.encode(line, found);
    std::vector<int32_t> result;
    for (const Token& token : found) result.push_back(token.id);
    return result;
  };
  EXPECT_TRUE(std::ranges::equal(cache.file(0), ids("nothing")));
  std::vector<int32_t> expected = ids("her teacher follows"), second = ids("her teacher");
  expected.push_back(vocabulary_->sep);
  expected.insert(expected.end(), second.begin(), second.end());
  EXPECT_TRUE(std::ranges::equal(cache.file(1), expected));
}

TEST_F(TokenCacheTest, IsReadAgainAndRemadeWhereItMust) {
  const std::vector<int32_t> first = tokens();
  ASSERT_EQ(caches().size(), 1u);
  const fs::path file = caches()[0];
  const auto made = fs::last_write_time(file);
  EXPECT_EQ(tokens(), first);
  EXPECT_EQ(fs::last_write_time(file), made);

  const auto size = static_cast<int64_t>(fs::file_size(file));
  auto spoil = [&](int64_t byte) {
    std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
    stream.seekg(byte);
    const char value = static_cast<char>(stream.get() ^ 1);
    stream.seekp(byte);
    stream.put(value);
  };
  auto remade = [&] {
    testing::internal::CaptureStderr();
    EXPECT_EQ(tokens(), first);
    EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("the text is tokenised anew"));
    testing::internal::CaptureStderr();
    EXPECT_EQ(tokens(), first);
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  };
  for (int64_t byte : {int64_t{0}, int64_t{8}, int64_t{16}, int64_t{30}, int64_t{60}, size / 2, size - 1}) {
    spoil(byte);
    remade();
  }
  for (int64_t left : {int64_t{0}, int64_t{20}, int64_t{70}, size - 1}) {
    fs::resize_file(file, static_cast<uintmax_t>(left));
    remade();
  }
  write("three.txt", "nothing follows");
  EXPECT_GT(tokens().size(), first.size());
  EXPECT_EQ(caches().size(), 2u);
}

// While one tokenises, others wait, and then read what it made.
TEST_F(TokenCacheTest, IsMadeByOneOfSeveralProcesses) {
  const std::vector<int32_t> expected = tokens();
  const fs::path file = caches().at(0), aside = text_.folder / "aside";
  fs::rename(file, aside);
  std::future<std::vector<int32_t>> other;
  {
    const FolderLock tokenising(text_.folder / "cache", FolderLock::Kind::exclusive);
    other = std::async(std::launch::async, [&] { return tokens(); });
    EXPECT_EQ(other.wait_for(std::chrono::milliseconds(300)), std::future_status::timeout);
    EXPECT_TRUE(caches().empty());
    fs::rename(aside, file);
  }
  const auto made = fs::last_write_time(file);
  EXPECT_EQ(other.get(), expected);
  EXPECT_EQ(fs::last_write_time(file), made) << "it was tokenised again";
}

TEST_F(TokenCacheTest, NamesWhatIsNoText) {
  write("bad.txt", "nothing\nfollows \xff nothing");
  EXPECT_THAT(error_of([&] { tokens(); }),
              testing::AllOf(HasSubstr("bad.txt: line 2 is not UTF-8 at byte 16"), HasSubstr("iconv")));
  EXPECT_EQ(caches().size(), 0u);  // nothing half-written
  EXPECT_GT(tokens(InvalidText::replace).size(), 0u);
  write("bad.txt", "");
  EXPECT_THAT(error_of([&] { tokens(); }), HasSubstr("bad.txt is empty; leave it out"));
  write("bad.txt", " \n\n");
  EXPECT_THAT(error_of([&] { tokens(); }), HasSubstr("bad.txt holds white space alone"));
  EXPECT_THAT(error_of([&] { text_files(text_.folder / "nowhere"); }), HasSubstr("is not there"));
  EXPECT_THAT(error_of([&] { text_files(text_.folder / "cache"); }),
              HasSubstr("there is no .txt file in it"));
}

TEST(MaskedText, AStepsBatchIsAFunctionOfItsNumber) {
  SmallText text("masked-resume");
  const Configuration c = configuration(text);
  MaskedText data(c);
  auto whole = data.train_batches(c.wide, 5, 0, 1 << 20);
  const int64_t epoch = data.steps_per_epoch(c.wide, "wide");
  ASSERT_GT(epoch, 2);
  std::vector<TextBatch> all;
  for (int64_t i = 0; i < 2 * epoch + 2; ++i) all.push_back(next(*whole));
  for (int64_t first : {int64_t{1}, epoch - 1, epoch, 2 * epoch + 1}) {
    auto resumed = data.train_batches(c.wide, 5, first, 1 << 20);
    for (int64_t i = first; i < std::ssize(all); ++i) ASSERT_TRUE(same(next(*resumed), all[i])) << i;
  }
  EXPECT_FALSE(same(next(*data.train_batches(c.wide, 6, 0, 1)), all[0]));
  // An epoch has no sequence twice; the next has them in another order, and masked elsewhere.
  std::map<int64_t, std::vector<int32_t>> places;
  int64_t differing = 0, again = 0;
  for (int64_t i = 0; i < 2 * epoch; ++i)
    for (size_t k = 0; k < all[i].samples.size(); ++k) {
      std::vector<int32_t> own(all[i].places.begin() + all[i].mask_offsets[k],
                               all[i].places.begin() + all[i].mask_offsets[k + 1]);
      auto [found, fresh] = places.try_emplace(all[i].samples[k], own);
      ASSERT_TRUE(fresh || i >= epoch);
      if (fresh) continue;
      ++again;
      differing += found->second != own;
    }
  EXPECT_GT(again, 0);
  EXPECT_GT(differing, again * 9 / 10);
}

// A sequence has the same masks wherever its batch puts it.
TEST(MaskedText, MasksDoNotDependOnTheBatch) {
  SmallText text("masked-batch");
  Configuration c = configuration(text);
  MaskedText data(c);
  auto masks = [&](int64_t batch_size) {
    c.wide.batch_size = batch_size;
    auto batches = data.train_batches(c.wide, 5, 0, 1 << 20);
    std::map<int64_t, std::vector<int32_t>> result;
    for (int64_t i = 0; i < data.steps_per_epoch(c.wide, "wide"); ++i) {
      TextBatch batch = next(*batches);
      for (size_t k = 0; k < batch.samples.size(); ++k)
        result[batch.samples[k]].assign(batch.words.begin() + batch.offsets[k],
                                        batch.words.begin() + batch.offsets[k + 1]);
    }
    return result;
  };
  auto small = masks(2), large = masks(7);
  int64_t compared = 0;
  for (const auto& [sample, words] : small) {
    if (!large.contains(sample)) continue;
    EXPECT_EQ(words, large.at(sample));
    ++compared;
  }
  EXPECT_GT(compared, 20);
}

TEST(MaskedText, HoldsOutAShareThatIsNotTrainedOn) {
  SmallText text("masked-split", 4000);
  const Configuration c = configuration(text);
  MaskedText data(c);
  const auto all = static_cast<double>(data.facts().train + data.facts().test);
  EXPECT_NEAR(static_cast<double>(data.facts().test), 0.1 * all, 5 * std::sqrt(0.09 * all));
  // Evaluation sees the same masks every time, and the whole split.
  auto one = data.plain_batches(Split::test, 10), two = data.plain_batches(Split::test, 10);
  int64_t seen = 0;
  for (int64_t i = 0; i < (data.facts().test + 9) / 10; ++i) {
    TextBatch batch = next(*one);
    EXPECT_TRUE(same(batch, next(*two)));
    seen += batch.count;
  }
  EXPECT_EQ(seen, data.facts().test);
  EXPECT_THAT(error_of([&] { MaskedText(configuration(text, {"data.test_share=1e-9"})); }),
              HasSubstr("give it more text or another share"));
}

TEST(MaskedText, ShardsAreTheBatchInPieces) {
  SmallText text("masked-shards");
  const Configuration c = configuration(text);
  MaskedText data(c);
  TextBatch batch = next(*data.plain_batches(Split::test, 5));
  std::unique_ptr<Backend> backend = make_reference_backend();
  std::unique_ptr<Stream> stream = backend->make_stream(1);
  Tape tape(*backend, *stream, DType::f64);
  ShardInput whole = batch.upload(tape, 0, 5), part = batch.upload(tape, 2, 4);
  const int64_t first = batch.offsets[2], rows = batch.offsets[4] - first, tokens = whole.sequences->tokens();
  auto of = [&](const Tensor& tensor, int64_t begin, int64_t count) {
    return tensor.slice(begin, count).host<int32_t>(*stream);
  };
  for (int64_t row = 0; row < 3; ++row)
    EXPECT_EQ(of(part.input->value, row * rows, rows), of(whole.input->value, row * tokens + first, rows))
        << row;
  const int64_t mask = batch.mask_offsets[2], masks = batch.mask_offsets[4] - mask;
  EXPECT_EQ(part.labels.host<int32_t>(*stream), of(whole.labels, mask, masks));
  std::vector<int32_t> there = of(whole.sequences->masked, mask, masks);
  for (int32_t& place : there) place -= static_cast<int32_t>(first);
  EXPECT_EQ(part.sequences->masked.host<int32_t>(*stream), there);
  EXPECT_EQ(part.sequences->token_ids.host<int64_t>(*stream),
            whole.sequences->token_ids.slice(first, rows).host<int64_t>(*stream));
  EXPECT_EQ(
      part.sequences->offsets.host<int32_t>(*stream),
      (std::vector<int32_t>{0, static_cast<int32_t>(batch.offsets[3] - first), static_cast<int32_t>(rows)}));
}

// Sequences of unlike lengths, so that shards have unlike numbers of masked tokens, and dropout: any number
// of shards is the step of the whole batch.
TEST(MaskedText, AccumulatingOverShardsIsTheWholeBatch) {
  TextBatch batch;
  batch.dropout_key = 77;
  SmallText text("masked-step", 40);
  const Vocabulary vocabulary = read_vocabulary(text.folder / "vocab.txt");
  for (int64_t i = 0; i < 5; ++i) {
    std::vector<int32_t> words(static_cast<size_t>(4 + 5 * i), 7), types(words.size(), 0), places, labels;
    mask_tokens(words, vocabulary, {0.3, false}, Draws(3, 0, static_cast<uint64_t>(i)), places, labels);
    batch.add(i, words, types, places, labels);
  }
  std::vector<std::vector<double>> whole;
  double loss = 0;
  for (int64_t shards : {1, 2, 4, 8}) {
    std::unique_ptr<Backend> backend = make_reference_backend();
    Team team(*backend, 2, 1);
    auto network = make_bert({.vocabulary = vocabulary.size(),
                              .positions = 32,
                              .hidden = 8,
                              .layers = 2,
                              .heads = 2,
                              .intermediate = 12,
                              .dropout = 0.3,
                              .attention_dropout = 0.3});
    team.run_one([&](Stream& stream) {
      network->store().allocate(stream, DType::f64);
      initialize_bert(*network, stream, 5, 0.3);
    });
    Optimizer optimizer(team, network->store(), {.momentum = 0});
    StepOutcome outcome = train_step(
        {team, *network, DType::f64, shards}, batch,
        [&](Tape& tape, const ShardInput& input) {
          Var logits = network->forward(tape, input.input);
          return ShardLoss{cross_entropy(tape, logits, input.labels, 0), input.labels.size()};
        },
        optimizer, 0.5);
    std::vector<std::vector<double>> values;
    team.run_one([&](Stream& stream) {
      for (const Parameter& p : network->store().all()) values.push_back(host_values(stream, p));
    });
    if (shards == 1) {
      whole = values;
      loss = outcome.loss;
      EXPECT_GT(outcome.gradient_norm, 0.01);
    }
    EXPECT_NEAR(outcome.loss, loss, 1e-12 * loss) << shards;
    for (size_t i = 0; i < values.size(); ++i)
      for (size_t k = 0; k < values[i].size(); ++k) ASSERT_NEAR(values[i][k], whole[i][k], 1e-12) << shards;
  }
}

}  // namespace
}  // namespace taper
