#pragma once
// Runs of the taper binary on several ranks, and what they leave.

#include <map>

#include "runtime/tcp/socket.h"
#include "tests/taper_process.h"

namespace taper {

inline int64_t count(const std::string& text, const std::string& part) {
  int64_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

inline std::vector<std::string> settings(std::vector<std::string> values, bool resume = false) {
  std::vector<std::string> arguments;
  for (std::string& value : values) arguments.insert(arguments.end(), {"--set", std::move(value)});
  if (resume) arguments.emplace_back("--resume");
  return arguments;
}

inline int64_t free_port() { return port_of(listen_at("127.0.0.1", 0)); }

/// What a test of ranks trains, whoever starts them.
class RankRuns : public ProcessTest {
 protected:
  std::vector<std::string> configuration() const override {
    return {std::string(TAPER_SOURCE_DIR) + "/recipes/configurations/tiny-resnet.toml"};
  }
  // Whether a process is gone, or has ended and waits for its parent to notice.
  static bool ended(pid_t pid) {
    std::string state = read("/proc/" + std::to_string(pid) + "/stat");
    return state.empty() || state[state.rfind(')') + 2] == 'Z';
  }
  // Waits until the log of a run has that many lines. False if the process has ended before.
  static bool wait_for_lines(const Process& process, const fs::path& output, int64_t lines) {
    while (!ended(process.pid)) {
      if (count(read(output / "metrics.jsonl"), "\n") >= lines) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return false;
  }
  // Every file of the weights and states that a run has saved.
  static std::map<std::string, std::string> saved(const fs::path& run) {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(run / "checkpoints"))
      if (entry.path().extension() == ".safetensors")
        files[entry.path().string().substr(run.string().size())] = read(entry);
    return files;
  }
  void expect_same(const fs::path& run, const fs::path& expected) {
    EXPECT_EQ(events(run), events(expected)) << run;
    EXPECT_FALSE(saved(expected).empty());
    EXPECT_TRUE(saved(run) == saved(expected)) << run;
  }

  // What torchrun sets for a rank on this machine, as env takes it.
  std::vector<std::string> variables(int rank, int ranks, int64_t port) const {
    const std::string number = std::to_string(rank), count = std::to_string(ranks);
    return {"RANK=" + number,        "WORLD_SIZE=" + count,
            "LOCAL_RANK=" + number,  "LOCAL_WORLD_SIZE=" + count,
            "MASTER_ADDR=127.0.0.1", "MASTER_PORT=" + std::to_string(port)};
  }
  Process start_with(std::vector<std::string> variables, const std::vector<std::string>& arguments) {
    variables.insert(variables.begin(), "env");
    variables.emplace_back(taper_binary());
    variables.insert(variables.end(), arguments.begin(), arguments.end());
    return launch(std::move(variables));
  }
  // Starts ranks that connect among themselves.
  std::vector<Process> start_alone(int ranks, const std::vector<std::string>& arguments) {
    const int64_t port = free_port();
    std::vector<Process> processes;
    for (int rank = 0; rank < ranks; ++rank)
      processes.push_back(start_with(variables(rank, ranks, port), arguments));
    return processes;
  }
  // What all of them have printed, and their exit codes.
  struct Results {
    std::vector<int> codes;
    std::string text;
  };
  Results wait_for_all(const std::vector<Process>& processes) {
    Results results;
    for (const Process& process : processes) {
      const Result result = wait(process);
      results.codes.push_back(result.code);
      results.text += result.text;
    }
    return results;
  }
};

}  // namespace taper
