#pragma once
// The taper binary as a process: run, killed, stopped, and what it leaves in the folder of a run.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace fs = std::filesystem;
inline std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// The binary of the build that the test belongs to.
inline std::string taper_binary() {
  return fs::read_symlink("/proc/self/exe").parent_path().parent_path() / "taper";
}

/// A folder for each test, and processes that write into it.
class ProcessTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("taper-run-" + std::to_string(getpid()) + "-" +
                                              testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  struct Process {
    pid_t pid;
    fs::path output;
  };
  /// Starts build/taper with both outputs in a file; on `cores` cores if that is not 0.
  Process start(std::vector<std::string> arguments, int cores = 0) {
    arguments.insert(arguments.begin(), taper_binary());
    return launch(std::move(arguments), cores);
  }
  /// The same for any command.
  Process launch(std::vector<std::string> command, int cores = 0) {
    fs::path output = folder_ / ("output-" + std::to_string(outputs_++));
    pid_t pid = fork();
    if (pid == 0) {
      int fd = open(output.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600);
      dup2(fd, 1);
      dup2(fd, 2);
      if (cores > 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        for (int i = 0; i < cores; ++i) CPU_SET(i, &set);
        sched_setaffinity(0, sizeof set, &set);
      }
      std::vector<char*> argv;
      for (std::string& argument : command) argv.push_back(argument.data());
      argv.push_back(nullptr);
      execvp(argv[0], argv.data());
      _exit(127);
    }
    return {pid, output};
  }
  struct Result {
    int code;  // negative: the signal that ended it
    std::string text;
  };
  static Result wait(const Process& process) {
    int status = 0;
    waitpid(process.pid, &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), read(process.output)};
  }
  Result run(std::vector<std::string> arguments, int cores = 0) {
    return wait(start(std::move(arguments), cores));
  }

  /// The configuration that the tests train, and what they add to it.
  virtual std::vector<std::string> configuration() const = 0;
  std::vector<std::string> train(const fs::path& output, std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments{"train", "--output", output.string()}, own = configuration();
    arguments.insert(arguments.end(), own.begin(), own.end());
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  static fs::path newest(const fs::path& run) {
    fs::path last;
    for (const auto& entry : fs::directory_iterator(run / "checkpoints"))
      if (entry.path().filename().string().starts_with("step-")) last = std::max(last, entry.path());
    return last;
  }
  static std::string weights(const fs::path& run) { return read(newest(run) / "weights.safetensors"); }

  /// The lines of a run's log without what the clock says.
  static std::vector<std::string> events(const fs::path& run) {
    std::vector<std::string> lines;
    std::istringstream text(read(run / "metrics.jsonl"));
    for (std::string line; std::getline(text, line);) {
      auto event = nlohmann::json::parse(line);
      for (const char* key : {"time", "seconds", "images_per_s", "tokens_per_s", "gflops", "command",
                              "communication_s", "communication_hidden"})
        event.erase(key);
      lines.push_back(event.dump());
    }
    return lines;
  }

  /// Starts a run and sends `signal` once its log holds `lines` lines (at once, if it ends before).
  Result interrupt(const fs::path& output, int64_t lines, int signal, bool resume,
                   std::vector<std::string> more = {}) {
    if (resume) more.emplace_back("--resume");
    Process process = start(train(output, std::move(more)));
    while (true) {
      siginfo_t state{};
      waitid(P_PID, static_cast<id_t>(process.pid), &state, WNOHANG | WEXITED | WNOWAIT);
      if (state.si_pid != 0) break;
      std::string text = read(output / "metrics.jsonl");
      if (std::count(text.begin(), text.end(), '\n') >= lines) break;
      std::this_thread::yield();
    }
    kill(process.pid, signal);
    return wait(process);
  }

  fs::path folder_;
  int outputs_ = 0;
};
