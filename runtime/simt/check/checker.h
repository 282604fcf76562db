#pragma once
// Looks at every access of kernels to memory: whether something orders it, whether it is within bounds,
// aligned and initialised. Kernels report their accesses through the hooks of -fsanitize=thread; see
// hooks.cpp.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <source_location>
#include <string>
#include <vector>

#include "runtime/simt/check/counts.h"
#include "runtime/simt/check/shadow.h"
#include "runtime/simt/check/sites.h"
#include "runtime/simt/launch.h"
#include "runtime/simt/symbols.h"

namespace taper::simt {

/// Bytes before and after each block of device memory that no kernel may touch.
constexpr size_t kRedZone = 1024;

/// What four bytes of shared memory hold.
struct Content {
  uint32_t block = 0;     // the time when the block began that the rest is about
  uint8_t written = 0;    // which bytes
  uint8_t in_flight = 0;  // which bytes a cp.async will write
  uint16_t site = 0;      // of that cp.async
};

/// Cells for a range of memory; pages that are never touched take no memory.
class Cells {
 public:
  explicit Cells(size_t bytes);
  ~Cells();
  Cells(const Cells&) = delete;
  Cells& operator=(const Cells&) = delete;
  Cell& of(size_t offset) { return cells_[offset / 4]; }

 private:
  Cell* cells_;
  size_t size_;
};

/// One for the process: kernels run one at a time in checked builds.
class Checker {
 public:
  enum class Kind { kRead, kWrite, kAtomic };

  static Checker& instance();

  /// Device memory came or went. What went is kept for a while, so that a later use is recognised.
  void allocated(void* block, size_t bytes);
  void released(void* block);
  /// Bytes came there from the host; or from the device, where what nothing has written stays so. Any thread.
  void filled(void* destination, size_t bytes);
  void copied(void* destination, const void* source, size_t bytes);

  /// Held while a grid runs.
  std::mutex& one_grid() { return one_grid_; }
  void begin_launch(const Launch& launch);
  void end_launch();
  void begin_block(const void* dynamic_shared);
  void barrier();
  void meet(uint32_t warp);
  void sync_warp(uint32_t warp, uint32_t mask) { clock_.sync_warp(warp, mask); }

  // By the running thread of the running kernel.
  void access(const void* address, uint32_t bytes, Kind kind, uint16_t site);
  [[noreturn]] void misaligned(const void* address, uint32_t bytes, uint16_t site);
  void fence() { clock_.fence(); }
  /// An ldmatrix of 16 bytes.
  void load_row(const void* shared, std::source_location where);
  void begin_copy(const void* shared, const void* global, uint32_t bytes, std::source_location where);
  void end_copy(const void* shared, uint32_t bytes, std::source_location where);
  Sites& sites() { return sites_; }

  void count(bool count);
  const Counts& counts() const { return counts_; }

 private:
  struct Block {
    size_t bytes = 0;
    bool freed = false;
    std::unique_ptr<Cells> cells;
    std::vector<uint8_t> written;  // which bytes of each four
  };
  struct Range {
    uintptr_t first = 0;
    Block* block = nullptr;
  };
  /// A place in shared memory.
  struct Shared {
    Cells* cells = nullptr;
    std::vector<Content>* contents = nullptr;
    size_t offset = 0, first = 0;        // of the place, and of what it is part of
    const SharedArray* array = nullptr;  // null: dynamic
  };

  Checker();
  bool find_shared(uintptr_t address, uint32_t bytes, uint16_t site, Shared& place);
  void use_shared(const Shared& place, uint32_t bytes, Kind kind, uint16_t site);
  void use_global(uintptr_t address, uint32_t bytes, Kind kind, uint16_t site);
  Range find_global(uintptr_t address);
  Range find_block(uintptr_t address);
  void order(Cell& cell, uint32_t mask, Kind kind, uint16_t site, bool shared);
  [[noreturn]] void fail(std::string message, uint16_t site);
  void use_other(uintptr_t address, uint32_t bytes, Kind kind, uint16_t site);
  std::string describe(uintptr_t address);

  std::mutex one_grid_, blocks_mutex_;
  std::map<uintptr_t, Block> blocks_;
  std::deque<void*> kept_;
  size_t kept_bytes_ = 0;
  std::atomic<bool> blocks_changed_ = false;
  std::array<Range, 4> recent_;  // of blocks_
  size_t oldest_ = 0;

  Clock clock_;
  Sites sites_;
  Counts counts_;
  std::atomic<bool> count_ = false;
  bool counting_ = false;

  const Launch* launch_ = nullptr;
  uint32_t block_ = 0;
  uintptr_t dynamic_ = 0, static_ = 0;
  size_t static_bytes_ = 0;
  std::array<uintptr_t, 4> index_variables_{};
  Cells dynamic_cells_, static_cells_;
  std::vector<Content> dynamic_contents_, static_contents_;
};

}  // namespace taper::simt
