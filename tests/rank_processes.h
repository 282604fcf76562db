#pragma once
// Ranks as processes that a test forks.

#include <gtest/gtest.h>
#include <nccl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <exception>
#include <functional>
#include <string>
#include <vector>

namespace taper {

inline constexpr unsigned kHangsAfter = 100;  // seconds: then a rank is killed and its test fails

inline int result_pipe = -1;  // of a rank's process
/// Ends this rank's process with what on_ranks() is to return for it.
[[noreturn]] inline void end_rank(const std::string& result) {
  const std::string text = result + ".";  // so that there is something
  _exit(write(result_pipe, text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 1);
}

/// Calls body(rank, id) in a process of its own for each rank; what they return, or "died".
using Body = std::function<std::string(int rank, const ncclUniqueId& id)>;
inline std::vector<std::string> on_ranks(int ranks, const Body& body) {
  ncclUniqueId id;
  EXPECT_EQ(ncclGetUniqueId(&id), ncclSuccess);
  std::vector<int> ends;
  std::vector<pid_t> processes;
  for (int rank = 0; rank < ranks; ++rank) {
    int ways[2];
    EXPECT_EQ(pipe(ways), 0);
    const pid_t process = fork();
    if (process == 0) {
      alarm(kHangsAfter);
      result_pipe = ways[1];
      try {
        end_rank(body(rank, id));
      } catch (const std::exception& error) {
        end_rank(error.what());
      }
    }
    close(ways[1]);
    ends.push_back(ways[0]);
    processes.push_back(process);
  }
  std::vector<std::string> results;
  for (size_t rank = 0; rank < ends.size(); ++rank) {
    std::string result;
    char part[256];
    for (ssize_t got = 0; (got = read(ends[rank], part, sizeof part)) > 0;)
      result.append(part, static_cast<size_t>(got));
    close(ends[rank]);
    waitpid(processes[rank], nullptr, 0);
    if (result.empty()) result = "died.";
    results.push_back(result.substr(0, result.size() - 1));
  }
  return results;
}

}  // namespace taper
