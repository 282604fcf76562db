#pragma once
// PTX's cp.async, and the shared memory whose size a launch gives. Called from kernels/cuda/ptx.cuh, where
// each is described.

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <vector>

namespace taper::simt {

/// The copies that a thread began and that have not written yet.
class PendingCopies {
 public:
  struct Copy {
    std::byte* shared;
    const std::byte* global;  // null: writes zeros
    int bytes;
    int64_t group;
    bool landed;
    std::source_location where;
  };

  /// Its group becomes the one that is not committed yet.
  void begin(Copy copy);
  void commit() { ++group_; }
  /// Writes all but the latest `pending` committed groups and what is not committed.
  void wait(int pending) { land(group_ - pending); }
  void land_all() { land(group_ + 1); }
  /// Writes some of them, by chance.
  void land_some();
  void clear();

 private:
  void land(int64_t groups);

  std::vector<Copy> copies_;
  int64_t group_ = 0;  // the number of those committed
};

void* dynamic_shared();
void copy_async(void* shared, const void* global, int bytes, bool valid, std::source_location where);
void commit_copies();
void wait_for_copies(int pending);

}  // namespace taper::simt
