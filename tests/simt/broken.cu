#include "kernels/cuda/ptx.cuh"
#include "tests/simt/kernels.h"

namespace taper::simt_test {

namespace {

constexpr int kThreads = 64;

__global__ void broken_kernel(Broken broken, float* x, int* count) {
  __shared__ float tile[kThreads + 1];
  __shared__ int done;
  auto* dynamic = dynamic_shared<float>();
  int thread = static_cast<int>(threadIdx.x), i = static_cast<int>(blockIdx.x) * kThreads + thread;
  switch (broken) {
    case Broken::kNothing:
      tile[thread] = x[i];
      dynamic[thread] = 1;
      __syncthreads();
      x[i] = tile[thread ^ 1] + dynamic[thread ^ 2];
      break;
    case Broken::kReadBeyondGlobal:
      tile[thread] = x[i + 1];
      break;
    case Broken::kWriteBeyondGlobal:
      x[i + kThreads] = 0;
      break;
    case Broken::kBeforeGlobal:
      x[i - 1] = 0;
      break;
    case Broken::kBeyondShared:
      tile[thread + 2] = 1;
      break;
    case Broken::kBeyondDynamic:
      dynamic[thread + 1] = 1;
      break;
    case Broken::kUninitialised:
      x[i] = tile[thread];
      break;
    case Broken::kUninitialisedDynamic:
      if (thread != 5) dynamic[thread] = 1;
      __syncthreads();
      x[i] = dynamic[thread];
      break;
    case Broken::kMisaligned:
      x[i] = reinterpret_cast<const float2*>(x)[thread / 2 * 2].x +
             *reinterpret_cast<const float*>(reinterpret_cast<const char*>(x) + 2);
      break;
    case Broken::kBlocksWriteTheSame:
      x[thread] = static_cast<float>(blockIdx.x);
      break;
    case Broken::kBlocksReadWhatOthersWrite:
      x[i] = x[(i + kThreads) % (2 * kThreads)];
      break;
    case Broken::kNoSyncwarp:
    case Broken::kSyncwarp:
      tile[thread] = x[i];
      if (broken == Broken::kSyncwarp) __syncwarp();
      x[i] = tile[thread % 32 > 0 ? thread - 1 : thread];
      break;
    case Broken::kSyncwarpAcrossWarps:
      tile[thread] = x[i];
      __syncwarp();
      x[i] = tile[thread % 32];
      break;
    case Broken::kOverwritten:
      tile[thread] = x[i];
      __syncthreads();
      tile[thread] = tile[thread ^ 1];
      break;
    case Broken::kNoFence:
    case Broken::kFence:
      // The last block to be done reads what the first wrote.
      x[i] = 1;
      if (broken == Broken::kFence) __threadfence();
      __syncthreads();
      if (thread == 0) done = atomicAdd(count, 1);
      __syncthreads();
      if (done == 1) x[i] = x[i ^ kThreads];
      break;
  }
}

template <int kRow>
__global__ void transpose_kernel(const float* x, float* out, int stride) {
  __shared__ float tile[32][kRow];
  for (int row = 0; row < 32; ++row)
    tile[row][threadIdx.x] = x[(row * 32 + static_cast<int>(threadIdx.x)) * stride];
  __syncthreads();
  for (int row = 0; row < 32; ++row) out[row * 32 + static_cast<int>(threadIdx.x)] = tile[threadIdx.x][row];
}

__global__ void copy_kernel(const float* x, float* out) {
  __shared__ float first[32], second[32];
  const int lane = static_cast<int>(threadIdx.x);
  const float* from = x;
  for (float* to : {first, second}) {
    cp_async<4>(to + lane, from + lane, to == second || lane % 2 == 0);
    from += 32;
  }
  cp_async_commit();
  cp_async_wait<0>();
  out[lane] = first[lane] + second[lane];
}

}  // namespace

cudaError_t run_broken(Broken broken, float* x, int* count) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(2);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kThreads * sizeof(float);
  return cudaLaunchKernelEx(&config, broken_kernel, broken, x, count);
}

cudaError_t transpose(const float* x, float* out, int stride, bool padded) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(1);
  config.blockDim = dim3(32);
  if (padded) return cudaLaunchKernelEx(&config, transpose_kernel<33>, x, out, stride);
  return cudaLaunchKernelEx(&config, transpose_kernel<32>, x, out, stride);
}

cudaError_t copy_some(const float* x, float* out) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(1);
  config.blockDim = dim3(32);
  return cudaLaunchKernelEx(&config, copy_kernel, x, out);
}

}  // namespace taper::simt_test
