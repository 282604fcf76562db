// The taper binary on several ranks, started by mpirun: the same bytes on any number of them, and one clear
// message when they do not fit together or one is lost.

#include <gmock/gmock.h>

#include <array>
#include <chrono>
#include <map>

#include "kernels/backend.h"
#include "runtime/error.h"
#include "runtime/philox.h"
#include "tests/mpi_runs.h"

namespace taper {
namespace {

using testing::Each;
using testing::HasSubstr;
using testing::Ne;

TEST_F(RanksTest, AnyNumberOfRanksGivesTheSameBytes) {
  for (const std::string precision : {"f32", "bf16"}) {
    // With bridges, and batches that the shards divide unevenly.
    std::vector<std::string> more =
        settings({"precision=" + precision, "shards=4", "widen.kind=full", "baseline.batch_size=18",
                  "wide.ema_decay=0.9", "finetune.optimizer=lamb", "finetune.clip_norm=1", "baseline.steps=4",
                  "wide.steps=4", "match.steps=3"});
    fs::path one = folder_ / (precision + "-1");
    ASSERT_EQ(run(train(one, more)).code, 0);
    for (int ranks : precision == "f32" ? std::vector{2, 4} : std::vector{4}) {
      fs::path several = folder_ / (precision + "-" + std::to_string(ranks));
      Result result = run_ranks(ranks, train(several, more));
      ASSERT_EQ(result.code, 0) << result.text;
      expect_same(several, one);
      EXPECT_EQ(count(result.text, "the run is in "), 1) << "only one rank speaks";
      EXPECT_EQ(count(result.text, "baseline: done"), 1);
    }
  }
}

TEST_F(RanksTest, AnEvaluationIsDividedAndOtherCommandsAreRefusedOnce) {
  // 3 portions, which 2 ranks cannot halve.
  const std::string folder = (folder_ / "run").string();
  ASSERT_EQ(run(train(folder, settings({"data.test_limit=250", "stages=[\"baseline\"]"}))).code, 0);
  auto evaluated = [&](int ranks) {
    const Result result = run_ranks(ranks, {"evaluate", folder, "--json"});
    EXPECT_EQ(result.code, 0) << result.text;
    nlohmann::json rows = nlohmann::json::parse(result.text, nullptr, false);
    EXPECT_FALSE(rows.is_discarded()) << "only one rank speaks: " << result.text;
    for (auto& row : rows) row.erase("images_per_s");
    return rows;
  };
  const nlohmann::json one = evaluated(1);
  ASSERT_EQ(one.size(), 1U);
  EXPECT_EQ(one[0]["samples"], 250);
  for (int ranks : {2, 4}) EXPECT_EQ(evaluated(ranks), one);
  auto refused = [&](int ranks, std::vector<std::string> command, const std::string& says) {
    const Result result = run_ranks(ranks, std::move(command));
    EXPECT_EQ(result.code, 2) << result.text;
    EXPECT_EQ(count(result.text, "taper: "), 1) << result.text;
    EXPECT_THAT(result.text, HasSubstr(says));
  };
  refused(3, {"evaluate", folder}, "3 ranks cannot divide an evaluation");
  refused(2, {"evaluate", (folder_ / "none").string()}, "none");
  const std::string file = (folder_ / "file").string();
  refused(2, {"export", folder, file, "--network", "baseline"}, "export is for one process, and 2 ranks");
  refused(2, {"tokenizer", "train", "/nowhere", file}, "tokenizer is for one process");
  EXPECT_FALSE(fs::exists(file));
}

// Every saved state, in the middle of a stage too, and whoever goes on from it.
TEST_F(RanksTest, AShardedOptimizerGivesTheSameBytes) {
  for (const std::string precision : {"f32", "bf16"}) {
    std::vector<std::string> how = {
        "precision=" + precision,   "shards=4",
        "checkpoint.keep_last=100", "stages=[\"baseline\", \"wide\", \"match\", \"finetune\"]",
        "baseline.optimizer=adamw", "baseline.lr=0.001",
        "wide.ema_decay=0.9",       "finetune.optimizer=lamb"};
    for (const std::string stage : {"baseline", "wide", "match", "finetune"})
      for (const char* setting : {".clip_norm=1", ".steps=4", ".checkpoint_every=2", ".evaluate_every=4"})
        how.push_back(stage + setting);
    fs::path one = folder_ / (precision + "-1");
    ASSERT_EQ(run(train(one, settings(how))).code, 0);
    auto sharded = [&](bool resume) {
      std::vector<std::string> arguments = settings(how, resume);
      arguments.emplace_back("--shard-optimizer");
      return arguments;
    };
    fs::path two = folder_ / (precision + "-2");
    Result result = run_ranks(2, train(two, sharded(false)));
    ASSERT_EQ(result.code, 0) << result.text;
    EXPECT_TRUE(saved(two) == saved(one)) << precision;
    if (precision == "bf16") continue;
    // A state that four ranks have saved in parts; then one has it whole, and two again in parts.
    fs::path changed = folder_ / (precision + "-changed");
    auto total = std::ssize(events(one));
    ASSERT_EQ(interrupt_rank(4, 1, total / 4, SIGTERM, changed, sharded(false)).code, 0);
    ASSERT_EQ(interrupt_rank(1, 0, total / 2, SIGTERM, changed, settings(how, true)).code, 0);
    ASSERT_EQ(run_ranks(2, train(changed, sharded(true))).code, 0);
    std::map<std::string, std::string> files = saved(changed);
    for (const auto& [name, content] : saved(one)) EXPECT_TRUE(files[name] == content) << name;
  }
}

TEST_F(BertRanksTest, AnyNumberOfRanksGivesTheSameBytes) {
  std::vector<std::string> more = settings({"shards=4", "precision=bf16", "widen.kind=full"});
  ASSERT_EQ(run(train(folder_ / "one", more)).code, 0);
  Result result = run_ranks(4, train(folder_ / "four", more));
  ASSERT_EQ(result.code, 0) << result.text;
  expect_same(folder_ / "four", folder_ / "one");
}

// The CUDA backend and NCCL's calls, each rank on a simulated GPU of its own.
TEST_F(RanksTest, SimulatedGpusGiveTheSameBytesOnAnyNumberOfRanks) {
  if (cuda_device() != "sim") GTEST_SKIP() << "this build has no device sim";
  setenv("TAPER_SIMT_SCHEDULE", "streams=late,seed=3", 1);
  for (const std::string precision : {"f32", "bf16"}) {
    std::vector<std::string> how =
        settings({"device=sim", "precision=" + precision, "shards=4", "stages=[\"baseline\"]",
                  precision == "bf16" ? "cuda_graphs=true" : "cuda_graphs=false", "network.width=4",
                  "data.train_limit=32", "data.test_limit=8", "baseline.batch_size=8", "baseline.steps=2",
                  "baseline.evaluate_every=2"});
    fs::path one = folder_ / (precision + "-1");
    ASSERT_EQ(run(train(one, how)).code, 0);
    for (int ranks : {2, 4}) {
      fs::path several = folder_ / (precision + "-" + std::to_string(ranks));
      Result result = run_ranks(ranks, train(several, how));
      ASSERT_EQ(result.code, 0) << result.text;
      expect_same(several, one);
    }
  }
  unsetenv("TAPER_SIMT_SCHEDULE");
}

TEST_F(RanksTest, ALostSimulatedGpuEndsAllRanks) {
  if (cuda_device() != "sim") GTEST_SKIP() << "this build has no device sim";
  std::vector<std::string> how =
      settings({"device=sim", "network.width=4", "data.test_limit=8", "baseline.steps=100000"});
  Process process = start_ranks(2, train(folder_ / "run", how));
  ASSERT_TRUE(wait_for_lines(process, folder_ / "run", 4));
  kill(ranks_of(process).at(1), SIGKILL);
  Result result = wait(process);
  EXPECT_NE(result.code, 0);
  EXPECT_EQ(count(result.text, "taper: "), 1) << result.text;
  EXPECT_THAT(result.text,
              HasSubstr("has died: it was killed, or it crashed. The run was in stage baseline"));
}

TEST_F(RanksTest, RanksMayChangeWheneverARunIsResumed) {
  const std::vector<std::string> how = {"shards=4", "imitate.order=together", "imitate.steps=8"};
  ASSERT_EQ(run(train(folder_ / "whole", settings(how))).code, 0);
  auto total = std::ssize(events(folder_ / "whole"));
  fs::path output = folder_ / "changed";
  // SIGTERM reaches one rank, and all of them save once and end well.
  int64_t lines = 0;
  for (auto [ranks, rank] : {std::pair{4, 3}, {2, 1}, {1, 0}, {2, 0}}) {
    lines += total / 5;
    Result stopped =
        interrupt_rank(ranks, rank, lines, SIGTERM, output, settings(how, ranks < 4 || lines > total / 5));
    ASSERT_EQ(stopped.code, 0) << stopped.text;
    EXPECT_EQ(count(stopped.text, "--resume goes on from here"), 1) << stopped.text;
  }
  ASSERT_EQ(run_ranks(4, train(output, settings(how, true))).code, 0);
  expect_same(output, folder_ / "whole");
}

// The pictures of 2 x 4 files, one of which cannot be decoded.
TEST_F(RanksTest, FilesThatCannotBeReadAreTheSameOnesOnAnyNumberOfRanks) {
  fs::path image = fs::path(TAPER_SOURCE_DIR) / "tests/golden/data/444.jpg", data = folder_ / "data";
  for (const char* split : {"train", "val"})
    for (const char* name : {"a", "b"}) {
      fs::create_directories(data / split / name);
      for (int i = 0; i < 4; ++i) fs::copy_file(image, data / split / name / (std::to_string(i) + ".jpg"));
    }
  for (const char* broken : {"train/a/1.jpg", "val/a/2.jpg", "val/b/0.jpg"})
    std::ofstream(data / broken) << "no image";
  std::vector<std::string> how = {
      "data.path=" + data.string(), "data.format=folder",       "data.on_error=skip",
      "data.train_limit=0",         "data.test_limit=0",        "data.image_size=16",
      "data.mean=[0.5, 0.5, 0.5]",  "data.std=[0.5, 0.5, 0.5]", "stages=[\"baseline\"]",
      "baseline.batch_size=4",      "baseline.steps=4"};
  ASSERT_EQ(run(train(folder_ / "one", settings(how))).code, 0);
  Result result = run_ranks(2, train(folder_ / "two", settings(how)));
  ASSERT_EQ(result.code, 0) << result.text;
  expect_same(folder_ / "two", folder_ / "one");
  how[2] = "data.on_error=stop";
  result = run_ranks(2, train(folder_ / "stop", settings(how)));
  EXPECT_EQ(result.code, 2) << result.text;
  EXPECT_EQ(count(result.text, "taper: "), 1) << result.text;
  EXPECT_THAT(result.text, HasSubstr("a/"));
}

TEST_F(RanksTest, WhatDoesNotFitTogetherIsRefusedOnce) {
  fs::path output = folder_ / "run", other = folder_ / "taper";
  fs::copy_file(taper_binary(), other);
  std::ofstream(other, std::ios::app) << "another build";
  auto command = [&](const std::string& program, std::vector<std::string> more) {
    std::vector<std::string> words = train(output, std::move(more));
    words.insert(words.begin(), program);
    return words;
  };
  // The same relative path leads each rank to images of its own: rank 1 would train on the test images.
  for (const char* split : {"train", "t10k"})
    for (const char* kind : {"-images-idx3-ubyte.gz", "-labels-idx1-ubyte.gz"}) {
      const fs::path images = "/usr/share/datasets/fashion-mnist";
      for (const char* folder : {"a", "b"}) {
        fs::create_directories(folder_ / folder / "data");
        const char* from = folder == std::string("a") ? split : "t10k";
        fs::create_symlink(images / (from + std::string(kind)),
                           folder_ / folder / "data" / (split + std::string(kind)));
      }
    }
  auto in = [&](const char* folder) {
    std::vector<std::string> words = command(taper_binary(), settings({"data.path=data"}));
    words.insert(words.begin(), {"--wdir", (folder_ / folder).string()});
    return words;
  };
  struct Case {
    Result result;
    std::string says;
  };
  for (const Case& c : {
           Case{run_ranks(3, train(output)), "3 ranks cannot divide 2 shards evenly; start 1 or 2 ranks"},
           Case{run_ranks(4, train(output)), "4 ranks cannot divide 2 shards evenly; start 1 or 2 ranks"},
           Case{run_each({command(taper_binary(), {}), command(taper_binary(), settings({"wide.lr=0.5"}))}),
                "rank 1 was started with another configuration than rank 0 (wide.lr is 0.1 there and 0.5 "
                "here)"},
           Case{run_each({command(taper_binary(), {}), command(other, {})}),
                "rank 1 runs another build of Taper"},
           Case{run_each({in("a"), in("b")}), "training data of rank 1"},
           Case{run_ranks(2, train(output, {"--resume"})), "no run to resume"},
           Case{run_ranks(2, train(output, settings({"data.path=/nowhere"}))), "/nowhere"},
           Case{run_ranks(2, train(output, settings({"wide.epoch=3"}))), "wide.epochs"},
       }) {
    EXPECT_EQ(c.result.code, 2) << c.result.text;
    EXPECT_THAT(c.result.text, HasSubstr(c.says));
    EXPECT_EQ(count(c.result.text, "taper: "), 1) << c.result.text;
    EXPECT_FALSE(fs::exists(output)) << "half a run was left behind";
  }
}

TEST_F(RanksTest, ASecondRunInTheSameFolderIsRefused) {
  fs::path output = folder_ / "run";
  std::vector<std::string> how = settings({"baseline.steps=1000000"});
  Process first = start_ranks(2, train(output, how));
  ASSERT_TRUE(wait_for_lines(first, output, 4));
  how.emplace_back("--resume");
  Result second = run_ranks(2, train(output, how));
  EXPECT_EQ(second.code, 2);
  EXPECT_THAT(second.text, HasSubstr("another process is writing this run"));
  EXPECT_EQ(count(second.text, "taper: "), 1) << second.text;
  kill(ranks_of(first).at(1), SIGTERM);
  EXPECT_EQ(wait(first).code, 0);
}

TEST_F(RanksTest, NaNEndsAllRanksWithOneMessage) {
  Result one = run(train(folder_ / "one", settings({"baseline.lr=1e38"})));
  Result two = run_ranks(2, train(folder_ / "two", settings({"baseline.lr=1e38"})));
  EXPECT_EQ(two.code, 1);
  EXPECT_EQ(count(two.text, "taper: "), 1) << two.text;
  EXPECT_THAT(two.text, HasSubstr(one.text.substr(one.text.find("taper: stage baseline"))));
}

// One rank is killed, stopped for good, or stopped for a while, at a random moment, of ranks that mpirun has
// started, and every other three times of ranks on their own. scripts/campaign.sh has more trials, and with
// TAPER_TEST_RESULTS goes on where that file of results ends.
TEST_F(RanksTest, ALostRankEndsAllAndNothingIsLost) {
  auto setting = [](const char* name, const std::string& other) {
    const char* value = std::getenv(name);
    return value != nullptr ? std::string(value) : other;
  };
  const std::string results_file = setting("TAPER_TEST_RESULTS", "");
  const std::string timeout = setting("TAPER_TEST_TIMEOUT", "10");  // a rank may have to wait for a core
  const std::vector<std::string> how = {"shards=4", "rank_timeout=" + timeout};
  ASSERT_EQ(run(train(folder_ / "whole", settings(how))).code, 0);
  auto total = static_cast<uint32_t>(events(folder_ / "whole").size());
  for (int trial = static_cast<int>(count(read(results_file), "\n"));
       trial < std::stoi(setting("TAPER_TEST_TRIALS", "3")); ++trial) {
    Draws draws(std::stoull(setting("TAPER_TEST_SEED", "7")), static_cast<uint64_t>(trial), 0);
    fs::path output = folder_ / std::to_string(trial);
    int ranks = draws.below(2) == 0 ? 2 : 4,
        lost = static_cast<int>(draws.below(static_cast<uint32_t>(ranks)));
    int64_t lines = 1 + draws.below(total - 10);
    const bool alone = trial / 3 % 2 == 1;
    const std::string kind = std::array{"killed", "stopped", "starved"}[static_cast<size_t>(trial % 3)];
    const std::string what = fmt::format("rank {} of {} {}, {}, from line {}", lost, ranks, kind,
                                         alone ? "without mpirun" : "under mpirun", lines);
    SCOPED_TRACE(fmt::format("trial {}: {}", trial, what));
    const std::vector<std::string> arguments = train(output, settings(how));
    const std::vector<Process> processes =
        alone ? start_alone(ranks, arguments) : std::vector{start_ranks(ranks, arguments)};
    ASSERT_TRUE(wait_for_lines(processes[0], output, lines)) << read(processes[0].output);
    std::map<int, pid_t> all;
    if (alone)
      for (const Process& process : processes) all.emplace(static_cast<int>(all.size()), process.pid);
    else
      all = ranks_of(processes[0]);
    ASSERT_EQ(std::ssize(all), ranks);
    auto begin = std::chrono::steady_clock::now();
    kill(all[lost], kind == "killed" ? SIGKILL : SIGSTOP);
    if (kind == "starved") {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      kill(all[lost], SIGCONT);
    }
    const Results results = wait_for_all(processes);
    auto seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    for (auto [rank, pid] : all) {
      for (int tenth = 0; tenth < 100 && !ended(pid); ++tenth)  // mpirun does not wait for those it kills
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
      EXPECT_TRUE(ended(pid)) << "rank " << rank << " was left behind";
    }
    if (kind == "starved") {
      EXPECT_THAT(results.codes, Each(0)) << results.text;
    } else {
      EXPECT_THAT(results.codes, Each(Ne(0))) << results.text;
      EXPECT_LT(seconds, std::stoi(timeout) + 30) << "the timeout, and what a busy machine adds";
      EXPECT_EQ(count(results.text, "taper: "), 1) << results.text;
      EXPECT_THAT(results.text, HasSubstr(fmt::format("taper: rank {} (process {} on ", lost, all[lost])));
      EXPECT_THAT(results.text, HasSubstr(kind == "killed" ? "has died" : "has not been heard of"));
      EXPECT_THAT(results.text, HasSubstr("The run was in stage "));
      Result resumed = run_ranks(ranks, train(output, settings(how, true)));
      ASSERT_EQ(resumed.code, 0) << resumed.text;
    }
    expect_same(output, folder_ / "whole");
    if (HasFailure()) return;
    if (!results_file.empty())
      std::ofstream(results_file, std::ios::app) << fmt::format("{}\t{:.1f}\t{}\n", kind, seconds, what);
    fs::remove_all(output);
  }
}

}  // namespace
}  // namespace taper
