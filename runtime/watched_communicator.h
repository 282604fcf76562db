#pragma once
// Ranks that watch each other while they work, whatever carries their bytes.

#include <array>
#include <atomic>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "runtime/communicator.h"
#include "runtime/rank_watch.h"

namespace taper {

/// What a rank says of itself when it comes.
struct RankCard {
  int64_t process = 0;
  std::array<char, 64> host{};     ///< the machine's name, for messages
  std::array<char, 64> machine{};  ///< the same for processes that know each other by their numbers; or empty
};
/// This process's.
RankCard own_card();

/// "rank 1 (process 4711 on node7)".
std::string name_of(int64_t rank, const RankCard& card);

/// A Communicator whose ranks tell rank 0 that they live and whom they wait for, and hear the same of it; a
/// thread of each does this. Rank 0 judges (runtime/rank_watch.h) and ends all; should it be lost itself,
/// rank 1 says so. What carries letters and bytes is the derived class's. It calls begin_watch() when it can
/// carry letters, and stop_watch() at the latest in its destructor.
class WatchedCommunicator : public Communicator {
 public:
  explicit WatchedCommunicator(const RankPlace& place) : Communicator(place) {}
  ~WatchedCommunicator() override;

  void note(const std::string& place) override;
  void note_wait(int64_t partner) override;
  void set_timeout(double seconds) override { timeout_ = seconds; }
  [[noreturn]] void fail(const std::string& message, int exit_code) override;

 protected:
  // What a rank is granted to come to the same error by itself, or to end when it is told to.
  static constexpr double kGrace = 1;

  // Of letters. All are called with mutex_ held, and return at once.
  virtual void post(int64_t to, std::vector<std::byte> letter) = 0;
  virtual bool posting(int64_t to) const = 0;  // whether one is under way to this rank
  virtual void deliver() = 0;  // helps those on their way, and calls read() for each that has come
  virtual bool hung_up(int64_t) const {
    return false;
  }  // whether this rank's end is known from its letters' way

  // Ends this process, after rank 0 has written that all end.
  [[noreturn]] virtual void end_as_told(int exit_code) = 0;
  // Ends this process and whichever others it can. What is to be said has been said, and posted.
  [[noreturn]] virtual void abort_all(int exit_code) = 0;

  void begin_watch(std::span<const RankCard> cards);
  void stop_watch();
  void collect();
  void read(int64_t from, std::span<const std::byte> bytes);
  // Kills a rank, if it is on this machine and has not ended.
  void kill_near(int64_t rank) const;

  // Held by whoever touches what carries letters, and never while something is waited for: so that the watch
  // can speak while others are waited for.
  std::timed_mutex mutex_;

 private:
  struct Letter;
  void post_letter(int64_t to, const Letter& letter, const std::string& text = "");
  [[noreturn]] void end_all(const std::string& message, int exit_code);
  void watch();
  bool died(int64_t rank);
  void judge(double now);
  void speak(double now);
  std::string where();

  std::mutex own_;  // guards what this rank says of itself
  std::string where_;
  int64_t waits_for_ = -1;
  double waits_since_ = 0;
  std::atomic<double> timeout_ = 60;
  // The watch's own.
  std::vector<RankStatus> ranks_;
  std::vector<int>
      processes_;         // of each other rank on this machine its process, as pidfd_open names it; else -1
  double awoke_ = -1e9;   // when this process went on after it had been stopped for long
  double failed_at_ = 0;  // when another rank reported `failure_`
  std::string failure_;
  int failure_code_ = 0;
  std::atomic<bool> stopping_ = false, ending_ = false;
  std::thread watch_;
};

}  // namespace taper
