#pragma once
// Ranks as threads of a test.

#include <gtest/gtest.h>

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/communicator.h"
#include "runtime/error.h"

namespace taper {

/// What ranks of one process lay down for each other.
struct Mailboxes {
  std::mutex mutex;
  std::condition_variable arrived;
  std::map<std::pair<int64_t, int64_t>, std::vector<std::vector<std::byte>>> letters;  // by (from, to)
};

class ThreadRank final : public Communicator {
 public:
  ThreadRank(int64_t rank, int64_t ranks, Mailboxes& mail)
      : Communicator({.rank = rank, .ranks = ranks}), mail_(mail) {}
  void exchange(int64_t partner, std::span<const std::byte> send, std::span<std::byte> receive) override {
    std::unique_lock lock(mail_.mutex);
    mail_.letters[{rank(), partner}].emplace_back(send.begin(), send.end());
    mail_.arrived.notify_all();
    auto& box = mail_.letters[{partner, rank()}];
    mail_.arrived.wait(lock, [&] { return !box.empty(); });
    ASSERT_EQ(box.front().size(), receive.size());
    std::copy(box.front().begin(), box.front().end(), receive.begin());
    box.erase(box.begin());
    sent += send.size();
    to_neighbour += (partner ^ rank()) == 1 ? send.size() : 0;
  }
  void note(const std::string&) override {}
  void note_wait(int64_t) override {}
  void set_timeout(double) override {}
  [[noreturn]] void fail(const std::string& message, int exit_code) override {
    throw Error(message, exit_code);
  }
  void finish() override {}

  size_t sent = 0, to_neighbour = 0;

 private:
  Mailboxes& mail_;
};

/// Runs body(rank) on every one of them at once.
inline void on_ranks(int64_t ranks, const std::function<void(ThreadRank&)>& body) {
  Mailboxes mail;
  std::vector<std::jthread> threads;
  for (int64_t rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      ThreadRank communicator(rank, ranks, mail);
      body(communicator);
    });
}

}  // namespace taper
