#pragma once
// The one way to start a kernel.

#include <cuda_runtime.h>

#include <cstdint>
#include <source_location>
#include <utility>

#include "runtime/cuda/error.h"

namespace taper {

/// A stream, and the place in the code that launches on it: converts from cudaStream_t.
struct LaunchStream {
  LaunchStream(cudaStream_t queue, std::source_location from = std::source_location::current())
      : stream(queue), place(from) {}
  cudaStream_t stream;
  std::source_location place;
};

/// How many blocks of `each` elements `count` elements need, as a grid's x extent; Failure beyond 2^31 - 1.
uint32_t blocks_for(int64_t count, int64_t each);

/// What launch() does around cudaLaunchKernelEx; `kernel` is its address.
void prepare_launch(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, const LaunchStream& at);
void finish_launch(cudaError_t code, dim3 grid, dim3 block, size_t shared_bytes, const LaunchStream& at);

/// Starts `kernel` with `shared_bytes` of dynamic shared memory. Arguments convert to the kernel's parameter
/// types. A grid without blocks is no launch. Failure, before anything is launched, for a grid or block
/// beyond what every CUDA device takes (grid 2^31 - 1, 65535, 65535; block 1024 threads); CudaError, with the
/// caller's place, when CUDA refuses the launch. Under CUDA_LAUNCH_BLOCKING=1 it waits for the kernel, so
/// that a kernel's error is told where the kernel was launched.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, LaunchStream at,
            Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  prepare_launch(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes, at);
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = at.stream;
  finish_launch(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), grid, block,
                shared_bytes, at);
}

}  // namespace taper
