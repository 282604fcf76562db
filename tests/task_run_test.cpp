// The stage task and what reads text, as a user runs them, on a few kilobytes of text.

#include <gmock/gmock.h>

#include <cmath>

#include "recipes/labelled_text.h"
#include "tests/small_text.h"
#include "tests/taper_process.h"

namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class TaskRunTest : public ProcessTest {
 protected:
  // Whether a sentence says "nothing", and how often it says "the".
  void SetUp() override {
    ProcessTest::SetUp();
    taper::Draws draws(3, 0, 0);
    for (const auto& [file, rows] : {std::pair("train.tsv", 192), std::pair("test.tsv", 67)}) {
      std::ofstream ends(make("ends") / file), counts(make("counts") / file), pairs(make("pairs") / file);
      ends << "label\ttext\n";
      counts << "text\tlabel\n";
      pairs << "label\tfirst\ttext\n";
      for (int i = 0; i < rows; ++i) {
        const std::string text = taper::SmallText::sentence(draws), other = taper::SmallText::sentence(draws);
        const bool nothing = text.find("nothing") != std::string::npos;
        ends << (nothing ? "nothing" : "something") << '\t' << text << '\n';
        counts << text << '\t' << (nothing ? 2.5 : -1) << '\n';
        pairs << (nothing ? "yes" : "no") << '\t' << other << '\t' << text << '\n';
      }
    }
  }
  fs::path make(const std::string& task) const {
    fs::create_directories(folder_ / "tasks" / task);
    return folder_ / "tasks" / task;
  }
  std::vector<std::string> configuration() const override {
    std::vector<std::string> arguments{std::string(TAPER_SOURCE_DIR) +
                                       "/recipes/configurations/tiny-bert.toml"};
    std::vector<std::string> settings = text_.settings();
    settings.insert(settings.end(),
                    {R"(stages=["wide","imitate","merge","task"])", R"(task.names=["ends"])",
                     R"(task.networks=["thin","wide"])", "task.path=" + (folder_ / "tasks").string(),
                     "task.sequence_length=32", "task.steps=60", "task.batch_size=16", "task.optimizer=adamw",
                     "task.lr=1e-2", "task.evaluate_every=20", "task.checkpoint_every=15"});
    for (const std::string& setting : settings) arguments.insert(arguments.end(), {"--set", setting});
    return arguments;
  }
  /// The process's standard output for this standard input.
  Result with_input(const std::string& command, const std::string& input) {
    std::ofstream(folder_ / "input") << input;
    const fs::path output = folder_ / "output";
    const int status = std::system((taper_binary() + " " + command + " <" + (folder_ / "input").string() +
                                    " >" + output.string() + " 2>&1")
                                       .c_str());
    return {WEXITSTATUS(status), read(output)};
  }

  taper::SmallText text_{"task-run"};
};

TEST_F(TaskRunTest, LearnsATaskFromEachNetworkAndPredicts) {
  const fs::path output = folder_ / "run";
  Result trained = run(train(output));
  ASSERT_EQ(trained.code, 0) << trained.text;
  const auto rows =
      nlohmann::json::parse(run({"evaluate", output.string(), "--task", "ends", "--json"}).text);
  ASSERT_EQ(rows.size(), 2);
  for (const auto& row : rows) {
    EXPECT_GT(row["accuracy"], 0.9) << row;  // two thirds say something
    EXPECT_EQ(row["samples"], 67);
  }
  EXPECT_EQ(rows[0]["network"], "thin");
  EXPECT_LT(rows[0]["parameters"], rows[1]["parameters"]);

  const std::string sentences =
      "her teacher carries a wide river, and the old ferryman follows nothing.\n"
      "her teacher carries a wide river.\n";
  const Result predicted = with_input("predict " + output.string() + " --task ends", sentences);
  EXPECT_EQ(predicted.code, 0);
  EXPECT_THAT(predicted.text, testing::MatchesRegex("nothing\t[01]\\.[0-9]+\nsomething\t[01]\\.[0-9]+\n"));
  EXPECT_THAT(with_input("predict " + output.string() + " --task ends --json", sentences).text,
              HasSubstr("\"probabilities\":{\"nothing\":"));

  // What was learnt is used without what it was learnt from.
  fs::remove_all(folder_ / "tasks");
  EXPECT_EQ(with_input("predict " + output.string() + " --task ends", sentences).text, predicted.text);
  EXPECT_EQ(run({"evaluate", output.string(), "--task", "ends"}).code, 2);

  const Result vectors = with_input("embed " + output.string(), sentences);
  EXPECT_EQ(std::ranges::count(vectors.text, '\n'), 2) << vectors.text;
  EXPECT_EQ(std::ranges::count(vectors.text, ' '), 2 * 15) << vectors.text;
  const std::string exported = (folder_ / "thin").string(), classifier = (folder_ / "classifier").string();
  ASSERT_EQ(run({"export", output.string(), exported}).code, 0);
  EXPECT_EQ(with_input("embed " + exported, sentences).text, vectors.text);
  ASSERT_EQ(run({"export", output.string(), classifier, "--task", "ends"}).code, 0);
  EXPECT_EQ(nlohmann::json::parse(read(classifier + "/config.json"))["id2label"]["1"], "something");
  EXPECT_THAT(with_input("fill-mask " + classifier, "a [MASK]\n").text,
              HasSubstr("has no cls.predictions.bias"));
  const Result filled =
      with_input("fill-mask " + output.string() + " --top 3 --json", "her [MASK] carries [MASK].\n");
  EXPECT_EQ(std::ranges::count(filled.text, '\n'), 2) << filled.text;
  EXPECT_THAT(filled.text, HasSubstr("{\"line\":1,\"mask\":2,\"words\":[{\"id\":"));

  for (const auto& [command, input, says] : std::vector<std::array<std::string, 3>>{
           {"predict " + output.string(), sentences, "has tasks; say which with --task"},
           {"predict " + output.string() + " --task other", sentences, "has no task \"other\"; it has ends"},
           {"predict " + output.string() + " --task ends", "a\tb\n",
            "line 1 has a tab; this task reads one text a line"},
           {"fill-mask " + output.string(), "no mask\n", "line 1 has no [MASK] to fill"},
           {"embed " + output.string(), std::string(200, '.') + "\n",
            "line 1 has 202 tokens, and the network has 32 positions"},
           {"embed " + folder_.string(), sentences,
            "is neither a folder of transformers' (with config.json) nor a run"}}) {
    const Result refused = with_input(command, input);
    EXPECT_EQ(refused.code, 2) << command;
    EXPECT_THAT(refused.text, HasSubstr(says));
  }
  // Vocabularies with another word than the networks'.
  for (const fs::path& folder : {text_.folder, fs::path(exported)})
    std::ofstream(folder / "vocab.txt", std::ios::app) << "unheard-of\n";
  for (const auto& [command, says] : std::vector<std::pair<std::string, std::string>>{
           {"predict " + output.string() + " --task ends", "and the run was trained with "},
           {"embed " + output.string(), "and the run was trained with "},
           {"export " + output.string() + " " + (folder_ / "other").string(),
            "and the run was trained with "},
           {"embed " + exported, "they do not belong together"}}) {
    const Result refused = with_input(command, sentences);
    EXPECT_EQ(refused.code, 2) << command;
    EXPECT_THAT(refused.text, HasSubstr(says)) << command;
  }
}

TEST_F(TaskRunTest, IsDescribedWithItsCost) {
  std::vector<std::string> arguments = configuration();
  arguments.insert(arguments.begin(), {"describe", "--json"});
  const auto stages = nlohmann::json::parse(run(arguments).text)["stages"];
  ASSERT_EQ(stages.size(), 4) << stages;  // wide, imitate, and the task from each network
  for (const size_t i : {2, 3}) {
    EXPECT_EQ(stages[i]["task"], "ends");
    EXPECT_EQ(stages[i]["network"], i == 2 ? "thin" : "wide");
    EXPECT_EQ(stages[i]["steps"], 60);
  }
  EXPECT_LT(stages[2]["flops"], stages[3]["flops"]);
  // The length in epochs is that of the task's texts: 192.
  arguments.insert(arguments.end(), {"--set", "task.steps=0", "--set", "task.epochs=5"});
  EXPECT_EQ(nlohmann::json::parse(run(arguments).text)["stages"][2]["steps"], 5 * 192 / 16);
  arguments.erase(arguments.begin() + 1);
  EXPECT_THAT(run(arguments).text, HasSubstr("task ends    thin"));
  fs::remove_all(folder_ / "tasks");
  const Result missing = run(arguments);
  EXPECT_EQ(missing.code, 2);
  EXPECT_THAT(missing.text, HasSubstr("ends is not there; put the labelled text there"));
}

TEST_F(TaskRunTest, StoppedInATaskItGoesOnToTheSameBytes) {
  const fs::path whole = folder_ / "whole", stopped = folder_ / "stopped",
                 task = fs::path("tasks") / "ends" / "thin";
  ASSERT_EQ(run(train(whole, {"--set", R"(task.networks=["thin"])"})).code, 0);
  const std::vector<std::string> settings = {"--set", R"(task.networks=["thin"])"};
  Process process = start(train(stopped, settings));
  while (std::ranges::count(read(stopped / task / "metrics.jsonl"), '\n') < 12 && ::kill(process.pid, 0) == 0)
    std::this_thread::yield();
  kill(process.pid, SIGKILL);
  ASSERT_EQ(wait(process).code, -SIGKILL);
  Result resumed = run(train(stopped, {"--set", R"(task.networks=["thin"])", "--resume"}));
  ASSERT_EQ(resumed.code, 0) << resumed.text;
  EXPECT_EQ(weights(stopped / task), weights(whole / task));
}

TEST_F(TaskRunTest, LearnsPairsAndNumbers) {
  const std::vector<std::string> common = {"--set", R"(stages=["baseline","task"])", "--set",
                                           R"(task.networks=["baseline"])"};
  std::vector<std::string> numbers = common, pairs = common;
  numbers.insert(numbers.end(), {"--set", R"(task.names=["counts"])", "--set", "task.regression=true"});
  pairs.insert(pairs.end(),
               {"--set", R"(task.names=["pairs"])", "--set", "task.text=first", "--set", "task.pair=text"});
  Result first = run(train(folder_ / "numbers", numbers)), second = run(train(folder_ / "pairs", pairs));
  ASSERT_EQ(first.code, 0) << first.text;
  ASSERT_EQ(second.code, 0) << second.text;
  const auto row = [&](const char* name, const char* task) {
    return nlohmann::json::parse(run({"evaluate", (folder_ / name).string(), "--task", task, "--json"}).text)
        .at(0);
  };
  EXPECT_GT(row("numbers", "counts")["pearson"], 0.9);
  EXPECT_GT(row("pairs", "pairs")["f1_macro"], 0.9);
  EXPECT_THAT(with_input("predict " + (folder_ / "pairs").string() + " --task pairs", "one text\n").text,
              HasSubstr("line 1 has no tab; this task reads two texts"));
}

TEST_F(TaskRunTest, RefusesWhatMakesNoSense) {
  for (const auto& [setting, says] : std::vector<std::pair<std::string, std::string>>{
           {"task.names=[]", "task.names is not set"},
           {"task.names=[\"../x\"]", "task.names has \"../x\", which is no folder of task.path"},
           {"task.networks=[]", "task.networks is empty"},
           {"task.networks=[\"baseline\"]", "task.networks has baseline, which no stage makes"},
           {"task.sequence_length=64",
            "task.sequence_length is 64, but network.max_position_embeddings only 32"},
           {"stages=[\"wide\",\"imitate\",\"task\",\"merge\"]",
            "stages has task before merge; task must come last"},
           {"task.steps=0", "the stage task has no length"}}) {
    Result result = run(train(folder_ / "refused", {"--set", setting}));
    EXPECT_EQ(result.code, 2) << setting;
    EXPECT_THAT(result.text, HasSubstr(says));
  }
}

TEST(TextSequences, AreCutAtTheLongerText) {
  using taper::Vocabulary;
  std::vector<std::string> tokens = Vocabulary::special_tokens();  // 2 is [CLS], 3 [SEP]
  for (const char* letter : {"a", "b"}) tokens.emplace_back(letter);
  taper::Tokenizer tokenizer(std::make_shared<const Vocabulary>(tokens, "v"), true);
  EXPECT_THAT(taper::make_sequence(tokenizer, "a a a", "", 4).words, ElementsAre(2, 5, 5, 3));
  const taper::TextSequence pair = taper::make_sequence(tokenizer, "a a a a", "b b", 7);
  EXPECT_THAT(pair.words, ElementsAre(2, 5, 5, 3, 6, 6, 3));
  EXPECT_THAT(pair.types, ElementsAre(0, 0, 0, 0, 1, 1, 1));
}

}  // namespace
