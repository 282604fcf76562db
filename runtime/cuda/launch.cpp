#include "runtime/cuda/launch.h"

#include <cstdlib>
#include <limits>
#include <string>
#include <string_view>

namespace taper {

namespace {

// Above this a kernel has to opt in.
constexpr size_t kPlainSharedBytes = size_t{48} * 1024;

// The toolkit's own switch for synchronous launches; read by the driver as well.
bool blocking() {
  static const bool value = [] {
    const char* text = std::getenv("CUDA_LAUNCH_BLOCKING");
    return text != nullptr && std::string_view(text) == "1";
  }();
  return value;
}

bool capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &status) == cudaSuccess && status != cudaStreamCaptureStatusNone;
}

std::string describe(dim3 grid, dim3 block, size_t shared_bytes) {
  return fmt::format("a launch of {}x{}x{} blocks of {}x{}x{} threads with {} bytes of shared memory", grid.x,
                     grid.y, grid.z, block.x, block.y, block.z, shared_bytes);
}

void check(cudaError_t code, const std::string& what, const LaunchStream& at) {
  if (code == cudaSuccess) return;
  const std::string call = fmt::format("{} in {}", what, at.place.function_name());
  throw CudaError(code, call.c_str(), at.place.file_name(), static_cast<int>(at.place.line()));
}

}  // namespace

uint32_t blocks_for(int64_t count, int64_t each) {
  TAPER_CHECK(count >= 0 && each > 0, "{} elements in blocks of {}", count, each);
  const int64_t blocks = count / each + (count % each != 0);
  TAPER_CHECK(blocks <= std::numeric_limits<int32_t>::max(), "{} elements need {} blocks of {}", count,
              blocks, each);
  return static_cast<uint32_t>(blocks);
}

void prepare_launch(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes, const LaunchStream& at) {
  const bool fits = grid.x <= 0x7FFFFFFF && grid.y <= 65535 && grid.z <= 65535 && block.x > 0 &&
                    block.y > 0 && block.z > 0 && block.x <= 1024 && block.y <= 1024 && block.z <= 64 &&
                    uint64_t{block.x} * block.y * block.z <= 1024;
  if (!fits)
    throw Failure("{}:{}: {} is more than CUDA takes (grid 2147483647 x 65535 x 65535, block 1024 threads)",
                  at.place.file_name(), at.place.line(), describe(grid, block, shared_bytes));
  if (shared_bytes > kPlainSharedBytes)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          describe(grid, block, shared_bytes), at);
}

void finish_launch(cudaError_t code, dim3 grid, dim3 block, size_t shared_bytes, const LaunchStream& at) {
  check(code, describe(grid, block, shared_bytes), at);
  if (blocking() && !capturing(at.stream))
    check(cudaStreamSynchronize(at.stream), describe(grid, block, shared_bytes), at);
}

}  // namespace taper
