// Runs a grid, block after block, on the calling thread of the host.

#include <cuda_runtime_api.h>

#include <map>
#include <mutex>

#include "runtime/simt/error.h"
#include "runtime/simt/launch.h"
#include "runtime/simt/queue.h"
#include "runtime/simt/worker.h"

namespace taper::simt {

namespace {

/// The dynamic shared memory that kernels may ask for (cudaFuncSetAttribute).
struct SharedLimits {
  std::mutex mutex;
  std::map<const void*, size_t> of_kernel;
};

SharedLimits& shared_limits() {
  static SharedLimits limits;
  return limits;
}

size_t shared_limit(const void* kernel) {
  SharedLimits& limits = shared_limits();
  std::lock_guard lock(limits.mutex);
  auto found = limits.of_kernel.find(kernel);
  return found == limits.of_kernel.end() ? kDefaultSharedBytes : found->second;
}

// The limits of compute capability 9.0.
bool fits(const Launch& launch) {
  const dim3 &grid = launch.grid, &block = launch.block;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0) return false;
  if (grid.x > 0x7FFFFFFF || grid.y > 0xFFFF || grid.z > 0xFFFF) return false;
  if (block.x > kMaximumThreads || block.y > kMaximumThreads || block.z > 64) return false;
  return block.x * block.y * block.z <= kMaximumThreads;
}

std::string run(const Launch& launch) {
  Worker& worker = Worker::of_this_thread();
  uint3 block{};
  for (block.z = 0; block.z < launch.grid.z; ++block.z)
    for (block.y = 0; block.y < launch.grid.y; ++block.y)
      for (block.x = 0; block.x < launch.grid.x; ++block.x)
        if (std::string failure = worker.run_block(launch, block); !failure.empty()) return failure;
  return {};
}

}  // namespace

cudaError_t enqueue(Launch launch, cudaStream_t stream) {
  if (!fits(launch)) return remember(cudaErrorInvalidConfiguration);
  if (launch.shared_bytes > shared_limit(launch.kernel)) return remember(cudaErrorInvalidValue);
  return submit(stream, [launch = std::move(launch)] { return run(launch); });
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
