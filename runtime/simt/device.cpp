// What the simulated devices say of themselves: those of a machine with eight, of compute capability 9.0.
// They share the process's memory.

#include <cuda_runtime_api.h>

#include <cstring>

#include "runtime/simt/error.h"
#include "runtime/simt/worker.h"

namespace {

constexpr int kDevices = 8;
constexpr int kProcessors = 8;  // few, so that a grid sized by them stays small

thread_local int current = 0;

bool exists(int device) { return device >= 0 && device < kDevices; }

}  // namespace

using taper::simt::remember;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = current;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (!exists(device)) return remember(cudaErrorInvalidDevice);
  current = device;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!exists(device)) return remember(cudaErrorInvalidDevice);
  *properties = {};
  std::strcpy(properties->name, "simulated GPU (a CPU)");
  size_t free;
  cudaMemGetInfo(&free, &properties->totalGlobalMem);
  properties->major = 9;
  properties->minor = 0;
  properties->multiProcessorCount = kProcessors;
  properties->warpSize = taper::simt::kWarp;
  properties->sharedMemPerBlock = taper::simt::kDefaultSharedBytes;
  properties->sharedMemPerBlockOptin = taper::simt::kMaximumSharedBytes;
  properties->sharedMemPerMultiprocessor = taper::simt::kMaximumSharedBytes + 1024;
  properties->reservedSharedMemPerBlock = 1024;
  properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
  properties->maxThreadsPerBlock = taper::simt::kMaximumThreads;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->maxBlocksPerMultiProcessor = 32;
  const int block[3] = {1024, 1024, 64}, grid[3] = {0x7FFFFFFF, 0xFFFF, 0xFFFF};
  std::memcpy(properties->maxThreadsDim, block, sizeof block);
  std::memcpy(properties->maxGridSize, grid, sizeof grid);
  properties->l2CacheSize = 50 << 20;
  properties->concurrentKernels = properties->asyncEngineCount = 1;
  properties->unifiedAddressing = properties->memoryPoolsSupported = 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  if (cudaError_t error = cudaGetDeviceProperties(&properties, device)) return error;
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      break;
    case cudaDevAttrWarpSize:
      *value = properties.warpSize;
      break;
    case cudaDevAttrMaxThreadsPerBlock:
      *value = properties.maxThreadsPerBlock;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(properties.sharedMemPerBlock);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      break;
    case cudaDevAttrL2CacheSize:
      *value = properties.l2CacheSize;
      break;
    case cudaDevAttrMemoryPoolsSupported:
      *value = properties.memoryPoolsSupported;
      break;
    default:
      return remember(cudaErrorNotSupported);
  }
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }
}
