#pragma once
// What a test may choose of the way kernels run on a CPU.

#include <cstdint>
#include <string_view>

namespace taper::simt {

/// The order of what a device may do in any order. The same schedule gives the same order in every run, as
/// long as one thread of the host issues the work; a correct kernel gives the same bits under every schedule.
struct Schedule {
  /// Of the blocks of a grid, the warps of a block and the lanes of a warp. kFixed: ascending, each running
  /// as far as it can.
  enum class Order { kFixed, kRandom };
  /// When a cp.async writes: at once (which finds buffers that are overwritten too early), when a wait
  /// demands it (which finds missing waits), or at random in between.
  enum class Copies { kEarly, kLate, kRandom };
  /// kEager: work is done when it is put into a stream. kLate: when the host waits for it, with the work of
  /// other streams in random order before and between, so that only what events order is in order.
  enum class Streams { kEager, kLate };

  Order order = Order::kFixed;
  Copies copies = Copies::kEarly;
  Streams streams = Streams::kEager;
  uint64_t seed = 0;
};

/// From the next launch on, for all threads; waits for the work that is queued. Until it is called, the
/// schedule is that of the environment variable TAPER_SIMT_SCHEDULE.
void set_schedule(const Schedule& schedule);
const Schedule& schedule();

/// Reads "order=random,copies=late,streams=late,seed=7", each part optional. UserError names what it does not
/// know.
Schedule parse_schedule(std::string_view text);

/// Lets the device have this much memory; the default is 16 GiB.
void set_memory_limit(int64_t bytes);

/// Launches of graphs so far, by all threads.
int64_t graph_launches();

}  // namespace taper::simt
