#include "runtime/watched_communicator.h"

#include <poll.h>
#include <unistd.h>

extern "C" {
#include <sys/pidfd.h>  // glibc 2.36 forgets to say so itself
}

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include "runtime/error.h"

namespace taper {

// One letter of the watch, between each rank and rank 0.
struct WatchedCommunicator::Letter {
  enum class Kind : int32_t {
    status,   // the sender lives
    failure,  // to rank 0: the sender cannot go on; the text says why
    end       // from rank 0: all end, and why has been printed
  } kind = Kind::status;
  int32_t exit_code = 0;   // of a failure or an end
  int64_t waits_for = -1;  // of a status
  double waited = 0;       // seconds
};

namespace {

void sleep_seconds(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

}  // namespace

RankCard own_card() {
  RankCard card{.process = getpid()};
  gethostname(card.host.data(), card.host.size() - 1);
  // A number means the same process only for one kernel since its start, in one namespace of numbers.
  std::string boot;
  std::error_code unknown;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  const std::string space = std::filesystem::read_symlink("/proc/self/ns/pid", unknown).string();
  if (!boot.empty() && !unknown) (boot + space).copy(card.machine.data(), card.machine.size() - 1);
  return card;
}

std::string name_of(int64_t rank, const RankCard& card) {
  return fmt::format("rank {} (process {} on {})", rank, card.process, card.host.data());
}

WatchedCommunicator::~WatchedCommunicator() {
  for (int process : processes_)
    if (process >= 0) close(process);
}

void WatchedCommunicator::note(const std::string& place) {
  std::lock_guard lock(own_);
  where_ = place;
}

void WatchedCommunicator::note_wait(int64_t partner) {
  std::lock_guard lock(own_);
  waits_for_ = partner;
  waits_since_ = clock_now();
}

std::string WatchedCommunicator::where() {
  std::lock_guard lock(own_);
  return where_;
}

void WatchedCommunicator::fail(const std::string& message, int exit_code) {
  if (first()) end_all(message, exit_code);
  {
    std::lock_guard lock(mutex_);
    post_letter(0, {.kind = Letter::Kind::failure, .exit_code = exit_code}, message);
  }
  // Rank 0 prints it, or its own, and ends this process.
  sleep_seconds(timeout_);
  end_all(message, exit_code);
}

void WatchedCommunicator::end_all(const std::string& message, int exit_code) {
  if (ending_.exchange(true))
    while (true) pause();  // another thread is at it
  if (!message.empty()) fmt::print(stderr, "taper: {}\n", message);
  std::fflush(nullptr);
  // Long enough for any call of another thread.
  if (std::unique_lock lock(mutex_, std::chrono::seconds(1)); lock && first())
    for (int64_t to = 1; to < ranks(); ++to)
      post_letter(to, {.kind = Letter::Kind::end, .exit_code = exit_code});
  abort_all(exit_code);
  std::abort();  // g++ 12 does not see that a virtual function never returns
}

void WatchedCommunicator::begin_watch(std::span<const RankCard> cards) {
  const RankCard& own = cards[static_cast<size_t>(rank())];
  const double now = clock_now();
  for (int64_t i = 0; i < ranks(); ++i) {
    const RankCard& card = cards[static_cast<size_t>(i)];
    ranks_.push_back({.name = name_of(i, card), .heard = now});
    bool near = i != rank() && card.machine == own.machine && own.machine[0] != '\0';
    processes_.push_back(near ? pidfd_open(static_cast<pid_t>(card.process), 0) : -1);
  }
  watch_ = std::thread([this] { watch(); });
}

void WatchedCommunicator::stop_watch() {
  stopping_ = true;
  if (watch_.joinable()) watch_.join();
}

// To be called with mutex_ held.
void WatchedCommunicator::post_letter(int64_t to, const Letter& letter, const std::string& text) {
  // One that does not collect its letters gets no more.
  if (letter.kind == Letter::Kind::status && posting(to)) return;
  std::vector<std::byte> bytes(sizeof letter + text.size());
  std::memcpy(bytes.data(), &letter, sizeof letter);
  std::memcpy(bytes.data() + sizeof letter, text.data(), text.size());
  post(to, std::move(bytes));
}

void WatchedCommunicator::collect() {
  std::lock_guard lock(mutex_);
  deliver();
}

void WatchedCommunicator::read(int64_t from, std::span<const std::byte> bytes) {
  Letter letter;
  std::memcpy(&letter, bytes.data(), sizeof letter);
  auto text = bytes.subspan(sizeof letter);
  std::string content(reinterpret_cast<const char*>(text.data()), text.size());
  double now = clock_now();
  if (letter.kind == Letter::Kind::end) end_as_told(letter.exit_code);
  if (letter.kind == Letter::Kind::failure) {
    if (failed_at_ > 0) return;
    failed_at_ = now;
    failure_ = fmt::format("rank {}: {}", from, content);
    failure_code_ = letter.exit_code;
    return;
  }
  RankStatus& status = ranks_[static_cast<size_t>(from)];
  status.heard = now;
  status.waits_for = letter.waits_for;
  status.waits_since = now - letter.waited;
}

bool WatchedCommunicator::died(int64_t rank) {
  std::lock_guard lock(mutex_);
  pollfd end{processes_[static_cast<size_t>(rank)], POLLIN, 0};
  return hung_up(rank) || (end.fd >= 0 && poll(&end, 1, 0) == 1);
}

void WatchedCommunicator::kill_near(int64_t rank) const {
  if (const int process = processes_[static_cast<size_t>(rank)]; process >= 0)
    pidfd_send_signal(process, SIGKILL, nullptr, 0);
}

// Rank 0 hears all ranks, and the others hear rank 0; should that be lost, rank 1 speaks.
void WatchedCommunicator::judge(double now) {
  std::string lost;
  if (first()) {
    if (failed_at_ > 0 && now - failed_at_ > kGrace) end_all(failure_, failure_code_);
    for (int64_t i = 1; i < ranks() && lost.empty(); ++i)
      if (died(i)) {
        // Another rank has found this one missing, said so and ended all.
        if (now - awoke_ < 5 * kGrace) end_all("", 1);
        lost = dead_rank(ranks_[static_cast<size_t>(i)], where());
      }
    if (lost.empty()) lost = lost_rank(ranks_, where(), now, timeout_);
    if (!lost.empty()) end_all(lost, 1);
    return;
  }
  RankStatus head = ranks_[0];
  head.waits_for = -1;  // whom it waits for, it judges itself
  if (died(0)) {
    collect();  // it may have left word
    lost = dead_rank(head, where());
  } else {
    lost = lost_rank({&head, 1}, where(), now, timeout_);
  }
  if (lost.empty()) return;
  if (rank() > 1) sleep_seconds(kGrace);
  end_all(rank() == 1 ? lost : "", 1);
}

// Says what this rank does, to rank 0, or as rank 0 to all.
void WatchedCommunicator::speak(double now) {
  RankStatus& own = ranks_[static_cast<size_t>(rank())];
  own.heard = now;
  {
    std::lock_guard lock(own_);
    own.waits_for = waits_for_;
    own.waits_since = waits_since_;
  }
  Letter letter{.waits_for = own.waits_for, .waited = now - own.waits_since};
  std::lock_guard lock(mutex_);
  if (!first()) return post_letter(0, letter);
  for (int64_t to = 1; to < ranks(); ++to) post_letter(to, letter);
}

void WatchedCommunicator::watch() {
  double spoke = 0, last = clock_now();
  while (!stopping_) try {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      collect();
      double now = clock_now(), gap = now - std::exchange(last, now);
      // This process itself was stopped for a while: that is not the others' fault.
      if (gap > timeout_ / 4) {
        for (RankStatus& rank : ranks_) {
          rank.heard += gap;
          rank.waits_since += gap;
        }
        if (gap > timeout_ / 2) awoke_ = now;
      }
      if (now - spoke > std::min(1.0, timeout_ / 10)) speak(spoke = now);
      judge(now);
    } catch (const std::exception& error) {
      end_all(error.what(), 1);
    }
}

}  // namespace taper
