// Units of imitation side by side on several ranks: the bytes of the sequential schedule.

#include <gmock/gmock.h>

#include "kernels/backend.h"
#include "tests/mpi_runs.h"

namespace taper {
namespace {

using testing::HasSubstr;

class UnitsTest : public RanksTest {
 protected:
  // Checkpoints in the middle of units that are trained side by side.
  static std::vector<fs::path> in_progress(const fs::path& run) {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(run / "checkpoints"))
      if (read(entry.path() / "state.safetensors").find("\"unit.") != std::string::npos)
        found.push_back(entry.path());
    std::ranges::sort(found);
    return found;
  }
  // A run as it was when this checkpoint of it was the newest.
  fs::path back_to(const fs::path& checkpoint, const std::string& name) {
    fs::copy(checkpoint.parent_path().parent_path(), folder_ / name, fs::copy_options::recursive);
    for (const auto& entry : fs::directory_iterator(checkpoint.parent_path()))
      if (entry.path().filename() > checkpoint.filename())
        fs::remove_all(folder_ / name / "checkpoints" / entry.path().filename());
    return folder_ / name;
  }
};

// Two units and then one by all ranks; or, with a stem to learn, four.
TEST_F(UnitsTest, UnitsSideBySideAreThoseOfTheSequentialSchedule) {
  for (const std::string kind : {"inner", "full"}) {
    std::vector<std::string> how = {"shards=4",
                                    "network.depths=[1, 2]",
                                    "widen.kind=" + kind,
                                    "imitate.input=teacher",
                                    "wide.steps=2",
                                    "finetune.steps=2",
                                    "imitate.clip_norm=0.1",
                                    "imitate.optimizer=adamw",
                                    "stages=[\"wide\", \"imitate\", \"finetune\", \"merge\"]"};
    if (kind == "full") how.emplace_back("imitate.statistics_batches=0");
    const fs::path sequential = folder_ / kind;
    ASSERT_EQ(run(train(sequential, settings(how))).code, 0);
    how.emplace_back("imitate.parallel=units");
    for (int ranks : {1, 2, 4}) {
      const fs::path output = folder_ / (kind + std::to_string(ranks));
      std::vector<std::string> arguments = settings(how);
      if (ranks == 4) arguments.emplace_back("--shard-optimizer");
      const Result result = run_ranks(ranks, train(output, arguments));
      ASSERT_EQ(result.code, 0) << result.text;
      expect_same_end(output, sequential);
    }
  }
}

TEST_F(UnitsTest, UnitsInProgressAreResumedOnAnyNumberOfRanks) {
  std::vector<std::string> how = {"shards=4",
                                  "network.depths=[1, 2]",
                                  "widen.kind=full",
                                  "imitate.input=teacher",
                                  "imitate.checkpoint_every=1",
                                  "checkpoint.keep_last=100",
                                  "wide.steps=2",
                                  "stages=[\"wide\", \"imitate\"]"};
  ASSERT_EQ(run(train(folder_ / "sequential", settings(how))).code, 0);
  how.emplace_back("imitate.parallel=units");
  auto resume = [&](const fs::path& checkpoint, int ranks, const std::string& name) {
    const fs::path output = back_to(checkpoint, name);
    const Result result = run_ranks(ranks, train(output, settings(how, true)));
    EXPECT_EQ(result.code, 0) << result.text;
    expect_same_end(output, folder_ / "sequential");
    return in_progress(output);
  };
  ASSERT_EQ(run_ranks(4, train(folder_ / "four", settings(how))).code, 0);
  std::vector<fs::path> states = in_progress(folder_ / "four");
  ASSERT_EQ(states.size(), 3U) << "each of 4 steps but the last";
  // Two of the four units go on and two wait; then one goes on.
  states = resume(states[1], 2, "two");
  ASSERT_EQ(states.size(), 5U)
      << "2 of four ranks, one more step of the first pair, the pause, and of the second";
  states = resume(states[2], 1, "one");
  // One unit is ahead of the others, and waits.
  resume(states.at(3), 4, "ahead");
}

TEST_F(UnitsTest, UnitsSideBySideStopTogether) {
  const std::vector<std::string> how =
      settings({"shards=4", "network.depths=[1, 2]", "imitate.input=teacher", "imitate.parallel=units",
                "imitate.steps=1000000", "wide.steps=2", "stages=[\"wide\", \"imitate\"]"});
  for (int signal : {SIGTERM, SIGKILL}) {
    const fs::path output = folder_ / std::to_string(signal);
    Process process = start_ranks(2, train(output, how));
    while (!ended(process.pid) && read(output / "metrics.jsonl").find("\"imitate\"") == std::string::npos)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    kill(ranks_of(process).at(1), signal);
    const Result result = wait(process);
    if (signal == SIGTERM) {
      EXPECT_EQ(result.code, 0);
      EXPECT_EQ(count(result.text, "--resume goes on from here"), 1) << result.text;
    } else {
      EXPECT_NE(result.code, 0);
      EXPECT_EQ(count(result.text, "taper: "), 1) << result.text;
      EXPECT_THAT(result.text, HasSubstr("has died"));
      EXPECT_THAT(result.text, HasSubstr("in stage imitate, unit layer"));
    }
  }
}

TEST_F(BertRanksTest, UnitsSideBySideAreThoseOfTheSequentialSchedule) {
  std::vector<std::string> how = {
      "shards=4",     "widen.kind=full",  "imitate.input=teacher",
      "wide.steps=2", "finetune.steps=2", "stages=[\"wide\", \"imitate\", \"finetune\"]"};
  ASSERT_EQ(run(train(folder_ / "sequential", settings(how))).code, 0);
  how.emplace_back("imitate.parallel=units");
  for (int ranks : {2, 4}) {
    const fs::path output = folder_ / std::to_string(ranks);
    const Result result = run_ranks(ranks, train(output, settings(how)));
    ASSERT_EQ(result.code, 0) << result.text;
    expect_same_end(output, folder_ / "sequential");
  }
}

// Two groups of two simulated GPUs each, which then go on together.
TEST_F(UnitsTest, SimulatedGpusTrainUnitsSideBySide) {
  if (cuda_device() != "sim") GTEST_SKIP() << "this build has no device sim";
  std::vector<std::string> how = {"device=sim",
                                  "shards=4",
                                  "network.width=4",
                                  "data.train_limit=32",
                                  "data.test_limit=8",
                                  "imitate.input=teacher",
                                  "imitate.batch_size=8",
                                  "imitate.steps=2",
                                  "imitate.bridge_samples=8",
                                  "imitate.statistics_batches=1",
                                  "wide.batch_size=8",
                                  "wide.steps=1",
                                  "match.batch_size=8",
                                  "match.steps=1",
                                  "stages=[\"wide\", \"imitate\", \"match\"]"};
  ASSERT_EQ(run(train(folder_ / "one", settings(how))).code, 0);
  how.emplace_back("imitate.parallel=units");
  const Result result = run_ranks(4, train(folder_ / "four", settings(how)));
  ASSERT_EQ(result.code, 0) << result.text;
  expect_same_end(folder_ / "four", folder_ / "one");
}

}  // namespace
}  // namespace taper
