#pragma once
// Runs of the taper binary on several ranks that mpirun starts.

#include <map>

#include "tests/rank_runs.h"
#include "tests/small_text.h"

namespace taper {

class RanksTest : public RankRuns {
 protected:
  RanksTest() {
    // Open MPI keeps what it has allocated until the process ends, which AddressSanitizer would call a leak.
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
  }

  // As root, and with more ranks than cores, mpirun wants to be told that this is meant.
  static std::vector<std::string> mpirun() { return {"mpirun", "--allow-run-as-root", "--oversubscribe"}; }
  // Starts `ranks` of build/taper with these arguments; 1: without mpirun.
  Process start_ranks(int ranks, std::vector<std::string> arguments) {
    if (ranks == 1) return start(std::move(arguments));
    std::vector<std::string> command = mpirun();
    for (const std::string& word : {std::string("-n"), std::to_string(ranks), taper_binary()})
      command.push_back(word);
    command.insert(command.end(), arguments.begin(), arguments.end());
    return launch(std::move(command));
  }
  Result run_ranks(int ranks, std::vector<std::string> arguments) {
    return wait(start_ranks(ranks, std::move(arguments)));
  }
  // Starts several programs as one rank each.
  Result run_each(const std::vector<std::vector<std::string>>& commands) {
    std::vector<std::string> all = mpirun();
    for (size_t i = 0; i < commands.size(); ++i) {
      if (i > 0) all.emplace_back(":");
      all.insert(all.end(), {"-n", "1"});
      all.insert(all.end(), commands[i].begin(), commands[i].end());
    }
    return wait(launch(std::move(all)));
  }

  // The end of runs that say differently how ranks divide the work.
  void expect_same_end(const fs::path& run, const fs::path& expected) {
    std::vector<std::string> lines = events(run), others = events(expected);
    ASSERT_FALSE(lines.empty());
    ASSERT_FALSE(others.empty());
    lines.front() = others.front() = "";  // the configuration
    EXPECT_EQ(lines, others) << run;
    EXPECT_EQ(newest(run).filename(), newest(expected).filename());
    for (const char* file : {"weights.safetensors", "state.safetensors"}) {
      EXPECT_FALSE(read(newest(expected) / file).empty());
      EXPECT_TRUE(read(newest(run) / file) == read(newest(expected) / file)) << run << " " << file;
    }
  }

  // The processes that mpirun started, by rank.
  static std::map<int, pid_t> ranks_of(const Process& mpirun) {
    std::map<int, pid_t> ranks;
    std::string pid = std::to_string(mpirun.pid);
    std::istringstream children(read("/proc/" + pid + "/task/" + pid + "/children"));
    for (pid_t child = 0; children >> child;) {
      std::string environment = read("/proc/" + std::to_string(child) + "/environ");
      const std::string name = "OMPI_COMM_WORLD_RANK=";
      if (size_t at = environment.find(name); at != std::string::npos)
        ranks[std::stoi(environment.substr(at + name.size()))] = child;
    }
    return ranks;
  }
  // Runs on some ranks, signals one of them once the log has that many lines, and waits for the end.
  Result interrupt_rank(int ranks, int rank, int64_t lines, int signal, const fs::path& output,
                        std::vector<std::string> more) {
    Process process = start_ranks(ranks, train(output, std::move(more)));
    if (wait_for_lines(process, output, lines))
      kill(ranks == 1 ? process.pid : ranks_of(process).at(rank), signal);
    return wait(process);
  }
};

class BertRanksTest : public RanksTest {
 protected:
  std::vector<std::string> configuration() const override {
    std::vector<std::string> arguments{std::string(TAPER_SOURCE_DIR) +
                                       "/recipes/configurations/tiny-bert.toml"};
    for (const std::string& setting : text_.settings()) arguments.insert(arguments.end(), {"--set", setting});
    return arguments;
  }
  SmallText text_{"bert-ranks"};
};

}  // namespace taper
