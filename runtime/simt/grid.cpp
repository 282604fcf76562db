// Runs a grid, block after block, on the calling thread of the host.

#include <cuda_runtime_api.h>

#include <atomic>
#include <map>
#include <mutex>
#include <numeric>

#include "runtime/simt/check/checker.h"
#include "runtime/simt/check/report.h"
#include "runtime/simt/error.h"
#include "runtime/simt/launch.h"
#include "runtime/simt/queue.h"
#include "runtime/simt/schedule.h"
#include "runtime/simt/symbols.h"
#include "runtime/simt/worker.h"

namespace taper::simt {

namespace {

/// The dynamic shared memory that kernels asked for (cudaFuncSetAttribute).
struct SharedLimits {
  std::mutex mutex;
  std::map<const void*, size_t> of_kernel;
};

SharedLimits& shared_limits() {
  static SharedLimits limits;
  return limits;
}

// Static arrays take their part of what a block may have.
bool shared_fits(const Launch& launch) {
  size_t arrays = 0;
  for (const SharedArray& array : launch.symbol->shared) arrays += array.bytes;
  SharedLimits& limits = shared_limits();
  std::lock_guard lock(limits.mutex);
  auto found = limits.of_kernel.find(launch.kernel);
  if (found == limits.of_kernel.end()) return arrays + launch.shared_bytes <= kDefaultSharedBytes;
  return launch.shared_bytes <= found->second && arrays + launch.shared_bytes <= kMaximumSharedBytes;
}

// The limits of compute capability 9.0.
bool fits(const Launch& launch) {
  const dim3 &grid = launch.grid, &block = launch.block;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0) return false;
  if (grid.x > 0x7FFFFFFF || grid.y > 0xFFFF || grid.z > 0xFFFF) return false;
  if (block.x > kMaximumThreads || block.y > kMaximumThreads || block.z > 64) return false;
  return block.x * block.y * block.z <= kMaximumThreads;
}

// Every number below `count` once: in order, or from a random one on in steps of a random width that has no
// divisor in common with `count`.
class BlockOrder {
 public:
  BlockOrder(uint64_t count, uint64_t seed) : count_(count) {
    if (schedule().order == Schedule::Order::kFixed) return;
    Choices choices(seed);
    next_ = choices.below(count);
    do step_ = 1 + choices.below(count);
    while (std::gcd(step_, count) != 1);
  }
  uint64_t next() {
    uint64_t block = next_;
    next_ = next_ < count_ - step_ ? next_ + step_ : next_ - (count_ - step_);
    return block;
  }

 private:
  uint64_t count_, next_ = 0, step_ = 1;
};

std::string run_blocks(const Launch& launch, uint64_t seed) {
  Worker& worker = Worker::of_this_thread();
  worker.seed(seed);
  const uint64_t columns = launch.grid.x, rows = launch.grid.y, blocks = columns * rows * launch.grid.z;
  BlockOrder order(blocks, seed);
  for (uint64_t done = 0; done < blocks; ++done) {
    uint64_t block = order.next();
    uint3 index{.x = static_cast<unsigned>(block % columns),
                .y = static_cast<unsigned>(block / columns % rows),
                .z = static_cast<unsigned>(block / columns / rows)};
    if (std::string failure = worker.run_block(launch, index); !failure.empty()) return failure;
  }
  return {};
}

std::string run(const Launch& launch, uint64_t seed) {
  if constexpr (kChecked) {
    report_at_exit();
    Checker& checker = Checker::instance();
    std::lock_guard lock(checker.one_grid());
    checker.begin_launch(launch);
    std::string failure = run_blocks(launch, seed);
    checker.end_launch();
    return failure;
  } else if constexpr (kOneSharedMemory) {
    static std::mutex one_grid;
    std::lock_guard lock(one_grid);
    return run_blocks(launch, seed);
  } else {
    return run_blocks(launch, seed);
  }
}

}  // namespace

cudaError_t enqueue(Launch launch, cudaStream_t stream) {
  if (!fits(launch)) return remember(cudaErrorInvalidConfiguration);
  launch.symbol = &kernel_symbol(launch.kernel);
  if (!shared_fits(launch)) return remember(cudaErrorInvalidValue);
  if (!of_current_device(stream)) return remember(cudaErrorInvalidResourceHandle);
  static std::atomic<uint64_t> launches = 0;
  return submit(stream, [launch = std::move(launch), number = launches++] {
    return run(launch, Choices(schedule().seed ^ number << 32).bits());
  });
}

}  // namespace taper::simt

extern "C" cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  using namespace taper::simt;
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return remember(cudaErrorNotSupported);
  if (value < 0 || static_cast<size_t>(value) > kMaximumSharedBytes) return remember(cudaErrorInvalidValue);
  SharedLimits& limits = shared_limits();
  std::lock_guard lock(limits.mutex);
  limits.of_kernel[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}
