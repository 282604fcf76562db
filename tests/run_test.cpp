// The taper binary as a user meets it: a run that is killed, stopped, continued, spoilt, or asked for what is
// not there.

#include <gmock/gmock.h>

#include <cstdlib>
#include <set>

#include "runtime/error.h"
#include "runtime/philox.h"
#include "tests/taper_process.h"

namespace {

using testing::HasSubstr;

class RunTest : public ProcessTest {
 protected:
  std::vector<std::string> configuration() const override {
    return {std::string(TAPER_SOURCE_DIR) + "/recipes/configurations/tiny-resnet.toml"};
  }
};

TEST_F(RunTest, AnyNumberOfWorkersGivesTheSameBytes) {
  ASSERT_EQ(run(train(folder_ / "one"), 1).code, 0);
  ASSERT_EQ(run(train(folder_ / "two", {"--set", "data.threads=3"}), 2).code, 0);
  EXPECT_EQ(weights(folder_ / "one"), weights(folder_ / "two"));
  ASSERT_EQ(run(train(folder_ / "bf16-one", {"--set", "precision=bf16"}), 1).code, 0);
  ASSERT_EQ(run(train(folder_ / "bf16-two", {"--set", "precision=bf16"}), 2).code, 0);
  EXPECT_EQ(weights(folder_ / "bf16-one"), weights(folder_ / "bf16-two"));
  EXPECT_NE(weights(folder_ / "one"), weights(folder_ / "bf16-one"));
  ASSERT_EQ(run(train(folder_ / "seed", {"--set", "seed=2"})).code, 0);
  EXPECT_NE(weights(folder_ / "one"), weights(folder_ / "seed"));
}

TEST_F(RunTest, KilledAtRandomMomentsItEndsWithTheSameBytes) {
  ASSERT_EQ(run(train(folder_ / "whole")).code, 0);
  auto expected = events(folder_ / "whole");
  auto total = static_cast<uint32_t>(expected.size());
  const char* seed =
      std::getenv("TAPER_TEST_SEED");  // scripts/campaign.sh kills at other moments in each round
  taper::Draws draws(seed != nullptr ? std::stoull(seed) : 7, 0, 0);
  std::set<std::string> stages_hit;
  constexpr uint32_t kTrials = 8;
  for (uint32_t trial = 0; trial < kTrials; ++trial) {
    fs::path output = folder_ / ("killed-" + std::to_string(trial));
    // One kill in each eighth of the log, so that every stage is hit; then a second one while resuming.
    int64_t first = 1 + (trial * total + draws.below(total)) / kTrials;
    Result killed = interrupt(output, first, SIGKILL, false);
    EXPECT_EQ(killed.code, -SIGKILL);
    auto so_far = events(output);
    stages_hit.insert(nlohmann::json::parse(so_far.back()).value("stage", "run"));
    interrupt(output, first + draws.below(10), SIGKILL, true);
    Result resumed = run(train(output, {"--resume"}));
    ASSERT_EQ(resumed.code, 0) << resumed.text;
    EXPECT_EQ(weights(output), weights(folder_ / "whole")) << "killed at line " << first;
    EXPECT_EQ(events(output), expected) << "killed at line " << first;
  }
  EXPECT_GE(stages_hit.size(), 4u);
}

// One checkpoint then holds the errors that every unit began with.
TEST_F(RunTest, KilledWhileAllUnitsImitateItEndsWithTheSameBytes) {
  const std::vector<std::string> together{"--set", "imitate.order=together", "--set", "imitate.steps=8"};
  ASSERT_EQ(run(train(folder_ / "whole", together), 1).code, 0);
  auto expected = events(folder_ / "whole");
  auto imitates = [](const std::string& line) {
    auto event = nlohmann::json::parse(line);
    return event["event"] == "train" && event["stage"] == "imitate";
  };
  auto first = std::find_if(expected.begin(), expected.end(), imitates) - expected.begin();
  EXPECT_EQ(std::count_if(expected.begin(), expected.end(), imitates), 8);
  ASSERT_EQ(interrupt(folder_ / "killed", first + 4, SIGKILL, false, together).code, -SIGKILL);
  std::vector<std::string> on = together;
  on.emplace_back("--resume");
  Result resumed = run(train(folder_ / "killed", on), 2);
  ASSERT_EQ(resumed.code, 0) << resumed.text;
  EXPECT_EQ(weights(folder_ / "killed"), weights(folder_ / "whole"));
  EXPECT_EQ(events(folder_ / "killed"), expected);
}

TEST_F(RunTest, StopsCleanlyOnSignalsAndGoesOn) {
  ASSERT_EQ(run(train(folder_ / "whole")).code, 0);
  for (int signal : {SIGTERM, SIGINT}) {
    fs::path output = folder_ / ("stopped-" + std::to_string(signal));
    Result stopped = interrupt(output, 6, signal, false);
    ASSERT_EQ(stopped.code, 0) << stopped.text;
    EXPECT_THAT(stopped.text, HasSubstr("--resume goes on from here"));
    ASSERT_EQ(run(train(output, {"--resume"})).code, 0);
    EXPECT_EQ(weights(output), weights(folder_ / "whole"));
    EXPECT_EQ(events(output), events(folder_ / "whole"));
  }
}

TEST_F(RunTest, ASpoiltCheckpointIsNamedAndThePreviousOneUsed) {
  ASSERT_EQ(run(train(folder_ / "whole")).code, 0);
  fs::path output = folder_ / "spoilt";
  ASSERT_EQ(interrupt(output, 20, SIGTERM, false).code, 0);
  fs::path file = newest(output) / "weights.safetensors";
  fs::resize_file(file, fs::file_size(file) - 5);
  Result resumed = run(train(output, {"--resume"}));
  ASSERT_EQ(resumed.code, 0) << resumed.text;
  EXPECT_THAT(resumed.text, HasSubstr(file.parent_path().filename().string()));
  EXPECT_EQ(weights(output), weights(folder_ / "whole"));
}

TEST_F(RunTest, NaNStopsBeforeAnyWeightChanges) {
  fs::path output = folder_ / "nan";
  Result result = run(train(output, {"--set", "baseline.lr=1e38", "--set", "baseline.checkpoint_every=1"}));
  EXPECT_EQ(result.code, 1);
  EXPECT_THAT(result.text, HasSubstr("stage baseline, step "));
  EXPECT_THAT(result.text, HasSubstr("is not finite"));
  EXPECT_THAT(result.text, testing::AnyOf(HasSubstr("block layer"), HasSubstr("the gradient of "),
                                          HasSubstr("stem"), HasSubstr("head")));
  // What was saved last is finite, as set_weights checks; so the run can be resumed up to the same step.
  Result again =
      run(train(output, {"--set", "baseline.lr=1e38", "--set", "baseline.checkpoint_every=1", "--resume"}));
  EXPECT_EQ(again.code, 1);
  EXPECT_THAT(again.text, HasSubstr("is not finite"));
}

// No step follows the last one of a unit or a stage: it is found all the same, and not saved.
TEST_F(RunTest, WhatTheLastStepSpoilsIsNotSaved) {
  ASSERT_EQ(run(train(folder_ / "wide", {"--set", "stages=[\"wide\"]"})).code, 0);
  struct Case {
    std::vector<std::string> settings;
    std::string says;
  };
  int number = 0;
  for (const Case& c :
       {// The only step leaves weights that are infinite, or so large that what they compute is.
        Case{{"stages=[\"wide\",\"imitate\"]", "imitate.steps=1", "imitate.lr=1e300"},
             "stage imitate, unit layer1.0, after step 1: layer1.0."},
        Case{{"stages=[\"wide\",\"imitate\"]", "imitate.steps=1", "imitate.lr=1e32"},
             "stage imitate, unit layer1.0, statistics after its steps: "},
        Case{{"stages=[\"wide\",\"baseline\"]", "baseline.steps=1", "baseline.lr=1e300"},
             "stage baseline, after step 1: "},
        Case{{"stages=[\"wide\",\"baseline\"]", "baseline.steps=1", "baseline.lr=1e32"},
             "stage baseline, after the last step: the loss on the test split is not finite"}}) {
    std::vector<std::string> settings;
    for (const std::string& setting : c.settings) settings.insert(settings.end(), {"--set", setting});
    fs::path output = folder_ / std::to_string(number++);
    Result result = run(train(output, settings));
    EXPECT_EQ(result.code, 1) << result.text;
    EXPECT_THAT(result.text, HasSubstr(c.says));
    EXPECT_THAT(result.text, HasSubstr("is not finite"));
    EXPECT_EQ(weights(output), weights(folder_ / "wide")) << "something was saved";
  }
}

TEST_F(RunTest, RefusesWhatMakesNoSense) {
  fs::path output = folder_ / "run";
  ASSERT_EQ(run(train(output)).code, 0);
  struct Case {
    std::vector<std::string> arguments;
    std::string says;
  };
  std::string other = (folder_ / "other").string();
  for (const Case& c :
       {Case{train(output), "holds another run"},
        Case{train(output, {"--resume", "--set", "seed=5"}), "seed"},
        Case{train(other, {"--resume"}), "no run to resume"},
        Case{train(other, {"--set", "wide.epoch=2"}), "wide.epochs"},
        Case{train(other, {"--set", "stages=[\"imitate\"]"}), "wide"},
        Case{train(other, {"--set", "widen.factor=1.3"}), "whole"},
        Case{train(other, {"--set", "baseline.batch_size=1000"}), "baseline.batch_size"},
        Case{train(other, {"--set", "data.path=/nowhere"}), "/nowhere"},
        Case{train(other, {"--device", "cuda"}), "cpu"}, Case{{"train", "/nowhere.toml"}, "/nowhere.toml"},
        Case{{"evaluate", other}, "no such run directory"},
        Case{{"export", output.string(), (folder_ / "x" / "y.safetensors").string()}, "y.safetensors"},
        Case{{"frobnicate"}, "frobnicate"}, Case{{"train"}, "configuration"}}) {
    Result result = run(c.arguments);
    EXPECT_EQ(result.code, 2) << fmt::format("{}", fmt::join(c.arguments, " ")) << result.text;
    EXPECT_THAT(result.text, HasSubstr(c.says));
    EXPECT_FALSE(fs::exists(other)) << "half a run was left behind";
  }
}

TEST_F(RunTest, SkippedFilesAreCountedInTheLogAndTheReport) {
  fs::path image = fs::path(TAPER_SOURCE_DIR) / "tests/golden/data/444.jpg", data = folder_ / "data";
  for (const char* split : {"train", "val"})
    for (const char* name : {"a", "b"}) {
      fs::path folder = data / split / name;
      fs::create_directories(folder);
      for (int i = 0; i < 4; ++i) fs::copy_file(image, folder / (std::to_string(i) + ".jpg"));
    }
  for (const char* broken : {"train/a/1.jpg", "val/a/2.jpg", "val/b/0.jpg"})
    std::ofstream(data / broken) << "no image";
  std::vector<std::string> settings;
  for (const std::string& setting :
       {"data.path=" + data.string(), std::string("data.format=folder"), std::string("data.on_error=skip"),
        std::string("data.train_limit=0"), std::string("data.test_limit=0"),
        std::string("data.image_size=16"), std::string("data.mean=[0.5, 0.5, 0.5]"),
        std::string("data.std=[0.5, 0.5, 0.5]"), std::string("stages=[\"baseline\"]"),
        std::string("baseline.augmentation={crop = \"random_resized\"}"),
        std::string("baseline.batch_size=4"), std::string("baseline.evaluate_every=2"),
        std::string("baseline.steps=4")})  // two epochs
    settings.insert(settings.end(), {"--set", setting});
  fs::path output = folder_ / "run";
  Result result = run(train(output, settings));
  ASSERT_EQ(result.code, 0) << result.text;
  EXPECT_THAT(result.text, HasSubstr("on 6 images; 2 more could not be decoded"));
  int64_t evaluations = 0, skipped = 0;
  for (const std::string& line : events(output)) {
    auto event = nlohmann::json::parse(line);
    if (event["event"] == "data") skipped = event["skipped"];
    if (event["event"] != "evaluate") continue;
    ++evaluations;
    EXPECT_EQ(event["samples"], 6);
    EXPECT_EQ(event["skipped"], 2);
  }
  EXPECT_EQ(evaluations, 2);
  EXPECT_EQ(skipped, 2) << "in each of two epochs";
  std::string report = read(output / "report.html");
  EXPECT_THAT(report, HasSubstr("2 files could not be decoded and were left out of training"));
  EXPECT_THAT(report, HasSubstr("2 files could not be decoded and were left out of the test images"));
}

TEST_F(RunTest, EveryCommandAnswers) {
  fs::path output = folder_ / "run";
  ASSERT_EQ(run(train(output)).code, 0);
  Result table = run({"evaluate", output.string()}), json = run({"evaluate", output.string(), "--json"});
  EXPECT_THAT(table.text, HasSubstr("baseline"));
  auto rows = nlohmann::json::parse(json.text);
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0]["network"], "baseline");
  EXPECT_EQ(rows[2]["parameters"], rows[0]["parameters"]);
  EXPECT_EQ(rows[1]["samples"], 128);
  // The table's figures are those of the log's last evaluation.
  for (const std::string& line : events(output)) {
    auto event = nlohmann::json::parse(line);
    if (event["event"] != "network" || event["network"] != "thin") continue;
    EXPECT_EQ(event["top1"], rows[2]["top1"]);
  }
  fs::path file = folder_ / "thin.safetensors";
  EXPECT_EQ(run({"export", output.string(), file.string()}).code, 0);
  EXPECT_THAT(read(file).substr(0, 4000), HasSubstr("layer1.0.conv1.weight"));
  EXPECT_EQ(run({"export", output.string(), file.string(), "--best", "--network", "wide"}).code, 0);
  std::string tiny = std::string(TAPER_SOURCE_DIR) + "/recipes/configurations/tiny-resnet.toml";
  auto described = nlohmann::json::parse(run({"describe", tiny, "--json"}).text);
  EXPECT_EQ(described["stages"].size(), 5u);
  EXPECT_EQ(described["networks"][0]["parameters"], rows[0]["parameters"]);
  auto planned =
      nlohmann::json::parse(run({"plan", tiny, "--ranks", "1,2,4", "--link", "1ms:1MB/s", "--json"}).text);
  ASSERT_EQ(planned["predictions"].size(), 2 * 5u);
  EXPECT_EQ(planned["predictions"][0]["communication_s"], 0.0);
  // Baseline: half of its gradients and statistics, there and back, in eight buckets.
  auto two = planned["predictions"][5];
  EXPECT_GT(two["bytes"], 4 * rows[0]["parameters"].get<int64_t>());
  EXPECT_NEAR(two["communication_s"], 2 * (8e-3 + two["bytes"].get<double>() / 2 * 1e-6), 1e-9);
  EXPECT_LT(two["exposed_s"], two["communication_s"]);
  EXPECT_EQ(planned["too_many_ranks"], nlohmann::json::array({4}));
  for (const char* command : {"train", "evaluate", "describe", "plan", "export", "report"}) {
    Result help = run({command, "--help"});
    EXPECT_EQ(help.code, 0);
    EXPECT_GT(help.text.size(), 300u);
  }
}

}  // namespace
