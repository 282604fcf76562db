#include "runtime/simt/memory.h"

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "runtime/simt/error.h"
#include "runtime/simt/queue.h"

namespace taper::simt {

namespace {

/// Blocks that are allocated now, by address.
struct Device {
  std::mutex mutex;
  std::map<void*, size_t> blocks;
  size_t used = 0;
  size_t limit = size_t{16} << 30;
};

Device& device() {
  static Device device;
  return device;
}

constexpr size_t kAlignment = 256;

cudaError_t allocate(void** pointer, size_t bytes) {
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  Device& memory = device();
  std::lock_guard lock(memory.mutex);
  if (memory.used > memory.limit || bytes > memory.limit - memory.used)
    return remember(cudaErrorMemoryAllocation);
  void* block = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (block == nullptr) return remember(cudaErrorMemoryAllocation);
  std::memset(block, 0xFF, bytes);  // NaN, and an index out of every range
  memory.blocks.emplace(block, bytes);
  memory.used += bytes;
  *pointer = block;
  return cudaSuccess;
}

cudaError_t release(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  Device& memory = device();
  std::lock_guard lock(memory.mutex);
  auto block = memory.blocks.find(pointer);
  if (block == memory.blocks.end()) return remember(cudaErrorInvalidValue);
  memory.used -= block->second;
  memory.blocks.erase(block);
  std::free(pointer);
  return cudaSuccess;
}

}  // namespace

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

cudaError_t cudaFree(void* pointer) { return taper::simt::release(pointer); }

cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t) { return cudaMalloc(pointer, bytes); }

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) { return cudaFree(pointer); }

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  constexpr size_t kPage = 4096;
  *pointer = std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage);
  return *pointer != nullptr ? cudaSuccess : remember(cudaErrorMemoryAllocation);
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) { return cudaHostAlloc(pointer, bytes, 0); }

cudaError_t cudaFreeHost(void* pointer) {
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

cudaError_t cudaMemcpyAsync(void* destination, const void* source, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  return submit(stream, [=] {
    if (bytes > 0) std::memmove(destination, source, bytes);
    return std::string();
  });
}

cudaError_t cudaMemcpy(void* destination, const void* source, size_t bytes, cudaMemcpyKind kind) {
  if (cudaError_t error = cudaMemcpyAsync(destination, source, bytes, kind, nullptr)) return error;
  return cudaStreamSynchronize(nullptr);
}

cudaError_t cudaMemsetAsync(void* destination, int value, size_t bytes, cudaStream_t stream) {
  return submit(stream, [=] {
    if (bytes > 0) std::memset(destination, value, bytes);
    return std::string();
  });
}

cudaError_t cudaMemset(void* destination, int value, size_t bytes) {
  if (cudaError_t error = cudaMemsetAsync(destination, value, bytes, nullptr)) return error;
  return cudaStreamSynchronize(nullptr);
}
}
