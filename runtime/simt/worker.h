#pragma once
// The threads of one block, run one at a time on one thread of the host. A thread runs until it must wait for
// others (a barrier, a shuffle); then the next one that can run continues.

#include <vector_types.h>

#include <array>
#include <cstdint>
#include <memory>
#include <source_location>
#include <string>
#include <vector>

#include "runtime/simt/async_copy.h"
#include "runtime/simt/fiber.h"
#include "runtime/simt/launch.h"
#include "runtime/simt/schedule.h"

namespace taper::simt {

using Where = std::source_location;

/// Whether each access to memory is checked (TAPER_SIMT_CHECK).
inline constexpr bool kChecked = TAPER_SIMT_CHECKED;

/// Whether __shared__ variables are the process's, for AddressSanitizer has red zones around such only: grids
/// then run one after another.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kOneSharedMemory = true;
#else
inline constexpr bool kOneSharedMemory = false;
#endif

constexpr int kWarp = 32;
constexpr int kMaximumThreads = 1024;
constexpr uint32_t kNone = 0xFFFFFFFF;
constexpr int kMaximumWarps = kMaximumThreads / kWarp;
/// What a kernel may use of shared memory: without asking, and with cudaFuncSetAttribute (compute
/// capability 9.0).
constexpr size_t kDefaultSharedBytes = size_t{48} * 1024;
constexpr size_t kMaximumSharedBytes = size_t{227} * 1024;

/// What the last lane to arrive does for all lanes of `mask`; operands[i] is what lane i left, on its own
/// stack. Returns what is wrong, or null.
using Collective = const char* (*)(void* const (&operands)[kWarp], uint32_t mask);

class Worker {
 public:
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// The worker of the calling thread of the host, made when first asked for.
  static Worker& of_this_thread() { return current_ != nullptr ? *current_ : make(); }
  /// Whether the calling code is a kernel's.
  static bool running_a_block() { return current_ != nullptr && current_->launch_ != nullptr; }

  /// Begins the random choices of a grid's schedule.
  void seed(uint64_t seed) { choices_ = Choices(seed); }
  /// Runs one block. Returns what went wrong, empty if nothing did; the threads of a block that failed are
  /// abandoned.
  std::string run_block(const Launch& launch, uint3 block_index);

  // What follows is called by the threads of the running block.

  /// Waits for all threads of the block. `count` sums `value` over them.
  int sync_threads(Where where, int value = 0);
  /// Waits for the lanes in `mask`, all of which must come here with the same mask and `collective`.
  void meet(uint32_t mask, Collective collective, void* operands, Where where);
  /// Ends the block with this message, to which the kernel, the block and the thread are added.
  /// Nothing on the thread's stack is destroyed any more: a caller holds no lock, and no memory but the
  /// message.
  [[noreturn]] void fail(std::string message, Where where);
  [[noreturn]] void fail(std::string message, std::string place);

  PendingCopies& copies() { return copies_[thread_]; }
  Choices& choices() { return choices_; }
  uint32_t thread() const { return thread_; }
  int lane() const { return static_cast<int>(thread_ % kWarp); }
  void* shared() { return shared_.get(); }

 private:
  enum class State : uint8_t { kNew, kRunnable, kBarrier, kMeeting, kDone };

  struct Thread {
    Context context;
    uint3 index;
    State state;
  };

  struct Meeting {
    uint32_t mask, arrived;
    Collective collective;
    Where where;
  };

  struct Warp {
    uint32_t ready = 0;  // lanes that can run
    int open = 0;        // meetings that wait for lanes
    std::array<Meeting, kWarp> meetings{};
    void* operands[kWarp] = {};
  };

  Worker();
  static Worker& make();
  void allow_shared(size_t bytes);
  [[noreturn]] static void fiber_main();
  void begin(const Launch& launch, uint3 block_index);
  uint32_t take();
  uint32_t take_any();
  void set_all_ready();
  void resume(uint32_t thread);
  Context context_of(uint32_t thread);
  void suspend(State state);
  [[noreturn]] void fail_elsewhere(Where there, Where where);
  [[noreturn]] void fail_outside(uint32_t mask, Where where);
  void set_ready(uint32_t warp, uint32_t lanes);
  [[noreturn]] void stuck();
  std::string describe(uint32_t thread, Where& where) const;
  std::string describe_all(Where& where) const;

  Warp& warp() { return warps_[thread_ / kWarp]; }

  static constinit thread_local Worker* current_;

  const Launch* launch_ = nullptr;
  // Unsigned, for they are divided by 32.
  uint32_t thread_ = 0;   // the one that runs
  uint32_t threads_ = 0;  // of the block
  uint32_t done_ = 0;
  uint32_t ready_warps_ = 0;
  std::array<Warp, kMaximumWarps> warps_;
  std::array<Thread, kMaximumThreads> thread_of_;

  uint32_t arrived_ = 0;    // at the barrier
  int generation_ = 0;      // barriers passed
  std::array<int, 2> sum_;  // of the values brought to the barrier, by the generation's parity
  Where barrier_;

  bool random_order_ = false;
  Choices choices_{0};
  std::vector<PendingCopies> copies_;

  Context host_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  Fiber* running_ = nullptr;  // the fiber that a thread begins on
  std::string error_, error_place_;

  struct Free {
    void operator()(void* memory) const;
  };
  std::unique_ptr<void, Free> shared_;
};

}  // namespace taper::simt
