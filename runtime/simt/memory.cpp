// The memory of the simulated device, and copies from and to it.

#include "runtime/simt/memory.h"

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "runtime/simt/check/checker.h"
#include "runtime/simt/error.h"
#include "runtime/simt/queue.h"
#include "runtime/simt/simt.h"
#include "runtime/simt/worker.h"

namespace taper::simt {

namespace {

using Blocks = std::map<const std::byte*, size_t>;

/// What is allocated now, by address.
struct Device {
  std::mutex mutex;
  Blocks blocks, pinned;
  size_t used = 0;
  size_t limit = size_t{16} << 30;
};

Device& device() {
  static Device device;
  return device;
}

bool within(const Blocks& blocks, const void* pointer, size_t bytes) {
  const auto* begin = static_cast<const std::byte*>(pointer);
  auto after = blocks.upper_bound(begin);
  if (after == blocks.begin()) return false;
  const auto& [block, size] = *std::prev(after);
  return static_cast<size_t>(begin - block) <= size && bytes <= size - static_cast<size_t>(begin - block);
}

bool pinned(const void* pointer, size_t bytes) {
  std::lock_guard lock(device().mutex);
  return within(device().pinned, pointer, bytes);
}

void* aligned(size_t alignment, size_t bytes) {
  return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

// Checked blocks have some bytes behind them that belong to nobody.
void* aligned_block(size_t bytes) {
  constexpr size_t kAlignment = 256;
  return aligned(kAlignment, kChecked ? bytes + kRedZone : bytes);
}

cudaError_t allocate(void** pointer, size_t bytes) {
  *pointer = nullptr;
  if (capture_forbids_waiting()) return remember(cudaErrorStreamCaptureUnsupported);
  if (bytes == 0) return cudaSuccess;
  Device& memory = device();
  std::lock_guard lock(memory.mutex);
  if (memory.used > memory.limit || bytes > memory.limit - memory.used)
    return remember(cudaErrorMemoryAllocation);
  void* block = aligned_block(bytes);
  if (block == nullptr) return remember(cudaErrorMemoryAllocation);
  std::memset(block, 0xFF, bytes);  // NaN, and an index out of every range
  memory.blocks.emplace(static_cast<std::byte*>(block), bytes);
  memory.used += bytes;
  if constexpr (kChecked) Checker::instance().allocated(block, bytes);
  *pointer = block;
  return cudaSuccess;
}

cudaError_t release(void* pointer) {
  Device& memory = device();
  std::lock_guard lock(memory.mutex);
  auto block = memory.blocks.find(static_cast<std::byte*>(pointer));
  if (block == memory.blocks.end()) return remember(cudaErrorInvalidValue);
  memory.used -= block->second;
  memory.blocks.erase(block);
  if constexpr (kChecked)
    Checker::instance().released(pointer);
  else
    std::free(pointer);
  return cudaSuccess;
}

// Which way a copy goes, by its ends where the caller leaves it to them.
cudaMemcpyKind direction(const void* destination, const void* source, size_t bytes, cudaMemcpyKind kind) {
  if (kind != cudaMemcpyDefault) return kind;
  bool to = on_device(destination, bytes), from = on_device(source, bytes);
  if (to) return from ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice;
  return from ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost;
}

}  // namespace

bool on_device(const void* pointer, size_t bytes) {
  std::lock_guard lock(device().mutex);
  return within(device().blocks, pointer, bytes);
}

void filled(void* destination, size_t bytes) {
  if constexpr (kChecked) Checker::instance().filled(destination, bytes);
}

void set_memory_limit(int64_t bytes) {
  Device& memory = device();
  std::lock_guard lock(memory.mutex);
  memory.limit = static_cast<size_t>(bytes);
}

}  // namespace taper::simt

using taper::simt::remember;
using taper::simt::submit;

extern "C" {

cudaError_t cudaMalloc(void** pointer, size_t bytes) { return taper::simt::allocate(pointer, bytes); }

cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  if (cudaError_t error = cudaDeviceSynchronize()) return error;
  return taper::simt::release(pointer);
}

// There is no pool: memory is new each time, so that what it held before is never found in it.
cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t) { return cudaMalloc(pointer, bytes); }

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  if (pointer == nullptr) return cudaSuccess;
  return submit(stream, [=] {
    return taper::simt::release(pointer) == cudaSuccess ? "" : "cudaFreeAsync of what is not allocated";
  });
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  constexpr size_t kPage = 4096;
  *pointer = taper::simt::aligned(kPage, bytes);
  if (*pointer == nullptr) return remember(cudaErrorMemoryAllocation);
  auto& memory = taper::simt::device();
  std::lock_guard lock(memory.mutex);
  memory.pinned.emplace(static_cast<std::byte*>(*pointer), bytes);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) { return cudaHostAlloc(pointer, bytes, 0); }

cudaError_t cudaFreeHost(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  if (cudaError_t error = cudaDeviceSynchronize()) return error;
  auto& memory = taper::simt::device();
  std::lock_guard lock(memory.mutex);
  if (memory.pinned.erase(static_cast<std::byte*>(pointer)) == 0) return remember(cudaErrorInvalidValue);
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  auto& memory = taper::simt::device();
  std::lock_guard lock(memory.mutex);
  *total = memory.limit;
  *free = memory.used < memory.limit ? memory.limit - memory.used : 0;
  return cudaSuccess;
}

// As the device does it, memory of the host that is not pinned is read before the call returns, and written
// before.
cudaError_t cudaMemcpyAsync(void* destination, const void* source, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  using namespace taper::simt;
  if (bytes == 0) return cudaSuccess;
  kind = direction(destination, source, bytes, kind);
  bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (on_device(destination, bytes) != to_device || on_device(source, bytes) != from_device)
    return remember(cudaErrorInvalidValue);
  if (!from_device && !pinned(source, bytes) && !captures(stream)) {
    const auto* from = static_cast<const std::byte*>(source);
    return submit(stream, [destination, staged = std::vector<std::byte>(from, from + bytes)] {
      std::memcpy(destination, staged.data(), staged.size());
      filled(destination, staged.size());
      return std::string();
    });
  }
  auto copy = [=] {
    std::memmove(destination, source, bytes);
    if (!from_device) filled(destination, bytes);
    if constexpr (kChecked)
      if (to_device && from_device) Checker::instance().copied(destination, source, bytes);
    return std::string();
  };
  return submit(stream, copy, !to_device && !pinned(destination, bytes));
}

cudaError_t cudaMemcpy(void* destination, const void* source, size_t bytes, cudaMemcpyKind kind) {
  if (cudaError_t error = cudaMemcpyAsync(destination, source, bytes, kind, nullptr)) return error;
  return cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemsetAsync(void* destination, int value, size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (!taper::simt::on_device(destination, bytes)) return remember(cudaErrorInvalidValue);
  return submit(stream, [=] {
    std::memset(destination, value, bytes);
    taper::simt::filled(destination, bytes);
    return std::string();
  });
}

cudaError_t cudaMemset(void* destination, int value, size_t bytes) {
  if (cudaError_t error = cudaMemsetAsync(destination, value, bytes, nullptr)) return error;
  return cudaStreamSynchronize(nullptr);
}
}
