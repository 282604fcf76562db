// Ranks that connect among themselves: as a library with threads as ranks, and the taper binary with nothing
// but torchrun's variables.

#include <gmock/gmock.h>

#include <chrono>
#include <set>

#include "kernels/backend.h"
#include "runtime/error.h"
#include "runtime/rank_watch.h"
#include "runtime/tcp/communicator.h"
#include "runtime/tcp/socket.h"
#include "tests/rank_runs.h"

namespace taper {
namespace {

using testing::HasSubstr;

std::unique_ptr<Communicator> connect_rank(int64_t rank, int64_t ranks, int64_t port, double patience = 60) {
  return make_tcp_communicator({.rank = rank, .ranks = ranks}, {"127.0.0.1", port}, patience);
}

// Runs body(rank) on every one of them at once.
void on_tcp_ranks(int64_t ranks, const std::function<void(Communicator&)>& body) {
  const int64_t port = free_port();
  std::vector<std::jthread> threads;
  for (int64_t rank = 0; rank < ranks; ++rank)
    threads.emplace_back([=] {
      const auto self = connect_rank(rank, ranks, port);
      body(*self);
      self->finish();
    });
}

TEST(TcpRanks, GatherWhatEachGives) {
  for (int64_t ranks : {2, 4, 8})
    on_tcp_ranks(ranks, [&](Communicator& self) {
      std::vector<std::string> expected;
      for (int64_t r = 0; r < ranks; ++r)
        expected.emplace_back(static_cast<size_t>(3 * r), static_cast<char>('a' + r));
      EXPECT_EQ(self.all_gather(expected[static_cast<size_t>(self.rank())]), expected);
      EXPECT_EQ(self.broadcast(self.first() ? "from the first" : "x"), "from the first");
      self.barrier();
      for (int64_t one = 0; one < ranks; ++one) EXPECT_TRUE(self.any(self.rank() == one));
    });
}

// Far more than the system keeps for a connection: each must receive while it sends.
TEST(TcpRanks, SendAndReceiveAtOnce) {
  constexpr size_t kSize = (size_t{24} << 20) + 5;
  on_tcp_ranks(2, [&](Communicator& self) {
    auto pattern = [](int64_t rank, size_t size) {
      std::vector<std::byte> bytes(size);
      for (size_t i = 0; i < size; ++i)
        bytes[i] = static_cast<std::byte>(i * 7 + i / 251 + static_cast<size_t>(rank));
      return bytes;
    };
    // Also with unlike sizes.
    for (size_t other : {kSize, size_t{3}, size_t{0}}) {
      const size_t own = self.first() ? kSize : other, theirs = self.first() ? other : kSize;
      std::vector<std::byte> got(theirs);
      self.exchange(1 - self.rank(), pattern(self.rank(), own), got);
      EXPECT_TRUE(got == pattern(1 - self.rank(), theirs)) << own << " for " << theirs;
    }
  });
}

TEST(TcpRanks, WhatKnocksAtThePortNeedNotBeARank) {
  const int64_t port = free_port();
  std::jthread first([&] { connect_rank(0, 2, port)->finish(); });
  std::vector<Socket> others;
  for (int i = 0; i < 3; ++i) others.push_back(connect_to("127.0.0.1", port, clock_now() + 60));
  const std::string request = "GET / HTTP/1.1\r\n\r\n";
  send_all(others[1], std::as_bytes(std::span(request)), clock_now() + 60);
  others[2] = Socket();
  connect_rank(1, 2, port)->finish();
}

void expect_refused(const std::function<void()>& call, int exit_code, const std::vector<std::string>& says) {
  try {
    call();
    ADD_FAILURE() << "accepted: " << says.front();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), exit_code) << error.what();
    for (const std::string& part : says) EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

TEST(TcpRanks, WhoeverDoesNotComeIsNamed) {
  const int64_t port = free_port();
  const std::string shown = std::to_string(port);
  expect_refused([&] { connect_rank(0, 4, port, 0.2); }, 1,
                 {"3 of 4 ranks did not come to 127.0.0.1:" + shown, "rank 1, rank 2, rank 3"});
  expect_refused([&] { connect_rank(3, 4, port, 0.2); }, 1,
                 {"rank 3 could not reach rank 0 at MASTER_ADDR=127.0.0.1 MASTER_PORT=" + shown, "refused"});
  expect_refused(
      [&] {
        make_tcp_communicator({.rank = 1, .ranks = 2}, {"no.such.host.invalid", port}, 0.2);
      },
      1, {"MASTER_ADDR=no.such.host.invalid"});
  const Socket taken = listen_at("127.0.0.1", port);
  expect_refused([&] { connect_rank(0, 2, port); }, 2,
                 {"rank 0 cannot listen at MASTER_ADDR=127.0.0.1 MASTER_PORT=" + shown, "already in use"});
}

class TcpRuns : public RankRuns {};

TEST_F(TcpRuns, GiveTheBytesOfOneProcess) {
  const std::vector<std::string> how =
      train(folder_ / "one", settings({"shards=4", "widen.kind=full", "wide.steps=4", "match.steps=3"}));
  ASSERT_EQ(run(how).code, 0);
  for (int ranks : {2, 4}) {
    std::vector<std::string> arguments = how;
    const fs::path several = folder_ / std::to_string(ranks);
    arguments[2] = several.string();
    const Results results = wait_for_all(start_alone(ranks, arguments));
    ASSERT_EQ(results.codes, std::vector<int>(static_cast<size_t>(ranks))) << results.text;
    expect_same(several, folder_ / "one");
    EXPECT_EQ(count(results.text, "the run is in "), 1) << "only one rank speaks";
  }
}

// NCCL's calls, whose unique id goes from rank to rank by TCP.
TEST_F(TcpRuns, SimulatedGpusGiveTheBytesOfOneProcess) {
  if (cuda_device() != "sim") GTEST_SKIP() << "this build has no device sim";
  const std::vector<std::string> how = settings(
      {"device=sim", "stages=[\"baseline\"]", "network.width=4", "data.train_limit=32", "data.test_limit=8",
       "baseline.batch_size=8", "baseline.steps=2", "baseline.evaluate_every=2"});
  ASSERT_EQ(run(train(folder_ / "one", how)).code, 0);
  const Results results = wait_for_all(start_alone(2, train(folder_ / "two", how)));
  ASSERT_EQ(results.codes, std::vector<int>({0, 0})) << results.text;
  expect_same(folder_ / "two", folder_ / "one");
}

// Nobody but the ranks themselves can end the others: also the one that is stopped.
TEST_F(TcpRuns, ALostRankEndsAllAndNothingIsLost) {
  const std::vector<std::string> how = {"shards=4", "rank_timeout=10"};
  ASSERT_EQ(run(train(folder_ / "whole", settings(how))).code, 0);
  struct Case {
    int ranks, lost, signal;
  };
  for (const Case& c : {Case{2, 1, SIGKILL}, {2, 0, SIGKILL}, {4, 2, SIGSTOP}, {4, 0, SIGSTOP}}) {
    SCOPED_TRACE(fmt::format("signal {} to rank {} of {}", c.signal, c.lost, c.ranks));
    const fs::path output = folder_ / fmt::format("{}-{}", c.lost, c.signal);
    const std::vector<Process> processes = start_alone(c.ranks, train(output, settings(how)));
    ASSERT_TRUE(wait_for_lines(processes[0], output, 5));
    const pid_t lost = processes[static_cast<size_t>(c.lost)].pid;
    const double begin = clock_now();
    kill(lost, c.signal);
    const Results results = wait_for_all(processes);
    EXPECT_LT(clock_now() - begin, 3 + 30) << "the timeout, and what a busy machine adds";
    for (int rank = 0; rank < c.ranks; ++rank)
      EXPECT_EQ(results.codes[static_cast<size_t>(rank)], rank == c.lost ? -SIGKILL : 1) << rank;
    EXPECT_EQ(count(results.text, "taper: "), 1) << results.text;
    EXPECT_THAT(results.text, HasSubstr(fmt::format("taper: rank {} (process {} on ", c.lost, lost)));
    EXPECT_THAT(results.text, HasSubstr(c.signal == SIGKILL ? "has died" : "has not been heard of"));
    EXPECT_THAT(results.text, HasSubstr("The run was in stage "));
    const Results resumed = wait_for_all(start_alone(2, train(output, settings(how, true))));
    ASSERT_EQ(resumed.codes, std::vector<int>({0, 0})) << resumed.text;
    expect_same(output, folder_ / "whole");
  }
}

TEST_F(TcpRuns, WhatDoesNotFitTogetherIsRefusedOnce) {
  const fs::path output = folder_ / "run";
  const std::vector<std::string> arguments = train(output);
  // Of rank 0, 1, ... the variables, and of another that replace its own.
  using Change = std::vector<std::pair<std::string, std::string>>;
  auto refused = [&](int ranks, const std::vector<Change>& changes) {
    const int64_t port = free_port();
    std::vector<Process> processes;
    for (size_t i = 0; i < changes.size(); ++i) {
      std::vector<std::string> own = variables(static_cast<int>(i), ranks, port);
      for (const auto& [name, value] : changes[i])
        for (std::string& variable : own)
          if (variable.starts_with(name + "=")) variable = name + "=" + value;
      processes.push_back(start_with(own, arguments));
    }
    return wait_for_all(processes);
  };
  struct Case {
    Results results;
    std::string says;
  };
  for (const Case& c : {
           Case{refused(4, {{}, {}, {{"RANK", "1"}, {"LOCAL_RANK", "1"}}}),
                "two processes were started with RANK=1: rank 1 (process "},
           Case{refused(2, {{}, {{"WORLD_SIZE", "4"}, {"LOCAL_WORLD_SIZE", "4"}}}),
                "was started with WORLD_SIZE=4, but rank 0 with WORLD_SIZE=2"},
           Case{refused(2, {{{"MASTER_ADDR", ""}}}), "RANK and WORLD_SIZE without MASTER_ADDR"},
           Case{refused(2, {{{"MASTER_PORT", ""}}}), "RANK and WORLD_SIZE without MASTER_PORT"},
           Case{refused(2, {{{"MASTER_PORT", "65536"}}}), "MASTER_PORT=65536, expected a port"},
           Case{refused(3, {{}, {}, {}}), "3 ranks cannot divide 2 shards evenly; start 1 or 2 ranks"},
       }) {
    EXPECT_EQ(std::set(c.results.codes.begin(), c.results.codes.end()), std::set{2}) << c.results.text;
    EXPECT_THAT(c.results.text, HasSubstr(c.says));
    EXPECT_EQ(count(c.results.text, "taper: "), 1) << c.results.text;
    EXPECT_FALSE(fs::exists(output)) << "half a run was left behind";
  }
}

}  // namespace
}  // namespace taper
