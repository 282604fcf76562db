#pragma once
// Runs of the taper binary on several ranks, and what they leave.

#include <map>

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
};

}  // namespace taper
