// A BERT's stages as a user runs them, on a few kilobytes of text.

#include <gmock/gmock.h>

#include <cmath>
#include <map>

#include "recipes/hugging_face.h"
#include "runtime/philox.h"
#include "runtime/safetensors.h"
#include "tests/small_text.h"
#include "tests/taper_process.h"

namespace {

using testing::HasSubstr;

class BertRunTest : public ProcessTest {
 protected:
  std::vector<std::string> configuration() const override {
    std::vector<std::string> arguments{std::string(TAPER_SOURCE_DIR) +
                                       "/recipes/configurations/tiny-bert.toml"};
    for (const std::string& setting : text_.settings()) arguments.insert(arguments.end(), {"--set", setting});
    return arguments;
  }
  static std::vector<nlohmann::json> of_kind(const fs::path& run, const std::string& kind) {
    std::vector<nlohmann::json> found;
    for (const std::string& line : events(run))
      if (auto event = nlohmann::json::parse(line); event["event"] == kind) found.push_back(event);
    return found;
  }

  taper::SmallText text_{"bert-run"};
};

TEST_F(BertRunTest, AnyNumberOfWorkersGivesTheSameBytes) {
  std::vector<std::string> results;
  for (const char* settings : {"precision=f32", "precision=bf16", "widen.kind=full", "imitate.input=teacher",
                               "imitate.attention=1"}) {
    const std::vector<std::string> more{"--set", settings};
    const fs::path one = folder_ / settings / "one", two = folder_ / settings / "two";
    fs::create_directories(one.parent_path());
    Result first = run(train(one, more), 1), second = run(train(two, more), 2);
    ASSERT_EQ(first.code, 0) << first.text;
    ASSERT_EQ(second.code, 0) << second.text;
    EXPECT_EQ(weights(one), weights(two)) << settings;
    EXPECT_EQ(events(one), events(two)) << settings;
    results.push_back(weights(one));
  }
  for (size_t i = 1; i < results.size(); ++i) EXPECT_NE(results[i], results[0]);
}

// As long as BERT's positions allow, packed with shorter ones: each file's last sequence is what is left
// over.
TEST_F(BertRunTest, ReadsSequencesOf512Tokens) {
  std::vector<std::string> results;
  for (const int workers : {1, 2}) {
    const fs::path output = folder_ / std::to_string(workers);
    Result result = run(train(output, {"--set", "data.sequence_length=512", "--set",
                                       "network.max_position_embeddings=512", "--set", "data.test_share=0.4",
                                       "--set", "baseline.batch_size=4", "--set", "stages=[\"baseline\"]"}),
                        workers);
    ASSERT_EQ(result.code, 0) << result.text;
    results.push_back(weights(output));
  }
  EXPECT_EQ(results[0], results[1]);
}

TEST_F(BertRunTest, KilledAtRandomMomentsItEndsWithTheSameBytes) {
  ASSERT_EQ(run(train(folder_ / "whole")).code, 0);
  const auto expected = events(folder_ / "whole");
  const auto total = static_cast<uint32_t>(expected.size());
  taper::Draws draws(5, 0, 0);
  constexpr uint32_t kTrials = 6;
  for (uint32_t trial = 0; trial < kTrials; ++trial) {
    const fs::path output = folder_ / ("killed-" + std::to_string(trial));
    const int64_t line = 1 + (trial * total + draws.below(total)) / kTrials;
    ASSERT_EQ(interrupt(output, line, SIGKILL, false).code, -SIGKILL);
    Result resumed = run(train(output, {"--resume"}));
    ASSERT_EQ(resumed.code, 0) << resumed.text;
    EXPECT_EQ(weights(output), weights(folder_ / "whole")) << "killed at line " << line;
    EXPECT_EQ(events(output), expected) << "killed at line " << line;
  }
}

// The wide network learns how often each word occurs, ln(120) = 4.79 before and below 3.6 then; what the thin
// one has imitated of it, layer by layer and never a label, is as good.
TEST_F(BertRunTest, TheThinNetworkLearnsFromTheWideOne) {
  Result result = run(train(folder_ / "run", {"--set", "stages=[\"wide\",\"imitate\",\"finetune\",\"merge\"]",
                                              "--set", "wide.lr=1e-2", "--set", "wide.steps=60", "--set",
                                              "imitate.lr=1e-2", "--set", "imitate.steps=60"}));
  ASSERT_EQ(result.code, 0) << result.text;
  std::map<std::string, nlohmann::json> last;  // by stage
  for (const auto& event : of_kind(folder_ / "run", "evaluate")) last[event["stage"]] = event;
  const double wide = last["wide"]["loss"];
  EXPECT_LT(wide, 3.6);
  EXPECT_NEAR(last["imitate"]["loss"], wide, 0.1);
  EXPECT_LT(last["finetune"]["loss"], wide + 0.1);
  EXPECT_DOUBLE_EQ(last["wide"]["perplexity"], std::exp(wide));
  for (const auto& unit : of_kind(folder_ / "run", "unit"))
    EXPECT_LT(unit["error_after"], unit["error_before"].get<double>() / 2) << unit;
}

TEST_F(BertRunTest, GoesOnWithTheSameTextOnly) {
  const fs::path output = folder_ / "run";
  ASSERT_EQ(interrupt(output, 10, SIGTERM, false).code, 0);
  const std::string text = read(text_.folder / "corpus/two.txt"), log = read(output / "metrics.jsonl");
  std::ofstream(text_.folder / "corpus/two.txt") << text << "Nothing follows.\n";
  Result changed = run(train(output, {"--resume"}));
  EXPECT_EQ(changed.code, 2);
  EXPECT_THAT(changed.text, HasSubstr("the text or the vocabulary is not what step-"));
  EXPECT_EQ(read(output / "metrics.jsonl"), log);
  std::ofstream(text_.folder / "corpus/two.txt") << text;
  EXPECT_EQ(run(train(output, {"--resume"})).code, 0);
}

TEST_F(BertRunTest, EveryCommandSpeaksOfText) {
  const fs::path output = folder_ / "run";
  ASSERT_EQ(run(train(output)).code, 0);
  Result table = run({"evaluate", output.string()});
  EXPECT_EQ(table.code, 0);
  for (const char* word : {"accuracy %", "perplexity", "tokens/s", "baseline", "wide", "thin"})
    EXPECT_THAT(table.text, HasSubstr(word));
  auto rows = nlohmann::json::parse(run({"evaluate", output.string(), "--json"}).text);
  for (const auto& event : of_kind(output, "network"))
    for (const auto& row : rows)
      EXPECT_TRUE(row["network"] != event["network"] || row["accuracy"] == event["accuracy"]) << row;
  const std::string log = read(output / "metrics.jsonl"), report = read(output / "report.html");
  EXPECT_THAT(log, HasSubstr("\"tokens_per_s\""));
  for (const char* word : {"Accuracy on masked tokens", "Perplexity", "Tokens per second",
                           "FLOPs per sequence", "a BERT of 2 layers of 16"})
    EXPECT_THAT(report, HasSubstr(word));

  std::vector<std::string> describe = configuration();
  describe.insert(describe.begin(), "describe");
  Result cost = run(describe);
  EXPECT_EQ(cost.code, 0) << cost.text;
  EXPECT_THAT(cost.text, testing::AllOf(HasSubstr("sequences of 32 tokens"), HasSubstr("GFLOPs/sequence")));
  describe.insert(describe.end(), {"--set", "data.path=nowhere"});
  EXPECT_THAT(run(describe).text,
              HasSubstr("nowhere is not there, so data.train_limit and network.vocab_size"));
  describe.insert(describe.end(), {"--set", "network.vocab_size=120"});
  EXPECT_THAT(run(describe).text, HasSubstr("nowhere is not there"));
}

TEST_F(BertRunTest, ExportsWhatTransformersReads) {
  const fs::path output = folder_ / "run", exported = folder_ / "exported";
  ASSERT_EQ(run(train(output)).code, 0);
  Result result = run({"export", output.string(), exported.string()});
  ASSERT_EQ(result.code, 0) << result.text;
  taper::PretrainedBert bert(exported);
  EXPECT_EQ(bert.spec.hidden, 16);
  EXPECT_EQ(bert.spec.heads, 2);
  EXPECT_EQ(bert.spec.positions, 32);
  EXPECT_TRUE(bert.lowercase);
  EXPECT_EQ(read(exported / "vocab.txt"), read(text_.folder / "vocab.txt"));
  auto config = nlohmann::json::parse(read(exported / "config.json"));
  EXPECT_EQ(config["architectures"][0], "BertForMaskedLM");
  EXPECT_EQ(config["vocab_size"], bert.vocabulary->size());
  // The tensors are those that the run ended with, under transformers' names.
  auto ours = taper::SafetensorsFile::read(newest(output) / "weights.safetensors");
  auto theirs = taper::SafetensorsFile::read(bert.weights);
  EXPECT_EQ(theirs.tensors().size(), 5u + 2 * 16 + 5);
  for (const taper::TensorBytes& tensor : theirs.tensors())
    EXPECT_TRUE(std::ranges::equal(tensor.bytes, ours.tensor("thin." + tensor.name).bytes)) << tensor.name;

  const fs::path file = folder_ / "beside/thin.safetensors";
  fs::create_directories(file.parent_path());
  ASSERT_EQ(run({"export", output.string(), file.string()}).code, 0);
  EXPECT_EQ(read(file), read(bert.weights));
  EXPECT_EQ(read(folder_ / "beside/config.json"), read(exported / "config.json"));

  Result wide = run({"export", output.string(), (folder_ / "wide").string(), "--network", "wide"});
  EXPECT_EQ(wide.code, 2);
  EXPECT_THAT(wide.text, HasSubstr("export the thin one"));
  EXPECT_FALSE(fs::exists(folder_ / "wide"));
}

TEST_F(BertRunTest, RefusesWhatMakesNoSense) {
  struct Case {
    const char *setting, *says;
  };
  for (const Case& c :
       {Case{"data.sequence_length=33",
             "data.sequence_length is 33, but network.max_position_embeddings only 32"},
        Case{"network.num_attention_heads=3", "network.hidden_size is 16, which 3 heads cannot share"},
        Case{"network.depth=20", "network.depth is a ResNet's"},
        Case{"widen.factor=1.25", "network.num_attention_heads is 2, and widen.factor 1.25 makes 2.5"},
        Case{"network.kind=resnet", "text is for network.kind = \"bert\""},
        Case{"data.on_error=skip", "which is for images"},
        Case{"network.vocab_size=50", "network.vocab_size is 50, but"},
        Case{"data.vocabulary=nowhere.txt", "nowhere.txt"}, Case{"data.path=nowhere", "nowhere is not there"},
        Case{"data.cache=/proc/nowhere", "/proc/nowhere: the folder cannot be made"},
        Case{"wide.augmentation.flip=true", "wide.augmentation is for images"}}) {
    const fs::path output = folder_ / "refused";
    Result result = run(train(output, {"--set", c.setting}));
    EXPECT_EQ(result.code, 2) << c.setting;
    EXPECT_THAT(result.text, HasSubstr(c.says));
    EXPECT_FALSE(fs::exists(output));
  }
}

}  // namespace
