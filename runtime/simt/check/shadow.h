#pragma once
// Which accesses to memory nothing orders: the rules of the race checker.

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <vector>

namespace taper::simt {

/// An access to some of four bytes.
struct Access {
  uint32_t time = 0;  // 0: none
  uint16_t thread : 10 = 0;
  uint16_t bytes : 4 = 0;
  uint16_t write : 1 = 0;
  uint16_t atomic : 1 = 0;
  uint16_t site = 0;

  /// In one word, not field by field.
  static Access of(uint32_t time, uint32_t thread, uint32_t bytes, bool write, bool atomic, uint32_t site) {
    return std::bit_cast<Access>(uint64_t{time} | uint64_t{thread & 0x3FF} << 32 |
                                 uint64_t{bytes & 0xF} << 42 | uint64_t{write} << 46 |
                                 uint64_t{atomic} << 47 | uint64_t{site} << 48);
  }
};

/// What later accesses to four bytes may conflict with: the last writes (of different bytes), and the first
/// and the last of the reads, by different threads: a write conflicts with one of them if it does with any.
struct Cell {
  std::array<Access, 2> writes, reads;
};

/// Time, which passes where threads meet, and what that orders.
class Clock {
 public:
  void begin_launch() {
    launch_ = ++now_;
    publications_.clear();
  }
  void begin_block() {
    block_ = barrier_ = ++now_;
    fenced_ = acquired_ = false;
    warp_.fill(0);
  }
  void barrier() { barrier_ = ++now_; }
  void sync_warp(uint32_t warp, uint32_t mask) {
    ++now_;
    for (uint32_t lane = 0; lane < 32; ++lane)
      if ((mask >> lane & 1) != 0) warp_[warp * 32 + lane] = now_;
  }
  void fence() { fenced_ = true; }
  /// An atomic in global memory. After a fence it publishes what the block did; in any case it acquires what
  /// blocks before published, as a block that counts the blocks that are done. (Which address the blocks
  /// agree on is not looked at.)
  void atomic() {
    acquired_ = true;
    if (!fenced_) return;
    ++now_;
    if (publications_.empty() || publications_.back().block != block_)
      publications_.push_back({block_, now_});
    publications_.back().until = now_;
  }

  uint32_t now() const { return now_; }

  /// Whether all accesses from now on come after this one.
  bool passed(const Access& access, bool shared) const { return access.time < (shared ? barrier_ : launch_); }

  /// Whether nothing orders an access now after an earlier one of which at least one writes. `shared`: to
  /// shared memory, which each block has anew.
  bool conflict(const Access& earlier, const Access& access, bool shared) const {
    if (earlier.time < block_)
      return !shared && earlier.time >= launch_ && differ(earlier, access) && !published(earlier);
    if (earlier.time < barrier_ || earlier.thread == access.thread || !differ(earlier, access)) return false;
    if (earlier.thread / 32 != access.thread / 32) return true;
    return earlier.time >= std::min(warp_[earlier.thread], warp_[access.thread]);
  }

 private:
  struct Publication {
    uint32_t block, until;
  };

  static bool differ(const Access& a, const Access& b) {
    return (a.bytes & b.bytes) != 0 && !(a.atomic && b.atomic);
  }
  bool published(const Access& earlier) const {
    if (!acquired_) return false;
    auto after = std::upper_bound(publications_.begin(), publications_.end(), earlier.time,
                                  [](uint32_t time, const Publication& one) { return time < one.block; });
    return after != publications_.begin() && earlier.time < std::prev(after)->until;
  }

  uint32_t now_ = 0, launch_ = 0, block_ = 0, barrier_ = 0;
  bool fenced_ = false, acquired_ = false;
  std::array<uint32_t, 1024> warp_{};  // when a thread last met others of its warp in __syncwarp
  std::vector<Publication> publications_;
};

/// Adds an access, or returns an earlier one in the cell that it conflicts with. For each access of a kernel,
/// so everything is passed in registers: a structure that is written in parts and read as one waits for
/// memory.
const Access* add(Cell& cell, Access access, const Clock& clock, bool shared);

}  // namespace taper::simt
