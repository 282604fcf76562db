#include "kernels/cuda/ptx.cuh"
#include "tests/simt/kernels.h"

namespace taper::simt_test {

namespace {

cudaLaunchConfig_t configuration(int blocks, int threads, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = stream;
  return config;
}

__global__ void vector_add_kernel(const float* a, const float* b, float* c, int n) {
  int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) c[i] = __ldg(a + i) + b[i];
}

__global__ void __launch_bounds__(256) block_sums_kernel(const float* x, float* sums, int n) {
  __shared__ float warp_sums[8];
  int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  float sum = i < n ? x[i] : 0;
  for (int delta = 16; delta > 0; delta /= 2) sum += __shfl_down_sync(0xFFFFFFFF, sum, delta);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  sum = 0;
  for (float one : warp_sums) sum += one;
  sums[blockIdx.x] = sum;
}

__global__ void partial_masks_kernel(int* out) {
  int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  int value = thread * 10;
  if (lane < 16) {
    out[thread * 4] = __shfl_xor_sync(0x0000FFFF, value, 1);
    out[thread * 4 + 1] = __shfl_up_sync(0x0000FFFF, value, 2, 8);
  } else {
    out[thread * 4] = __shfl_sync(0xFFFF0000, value, 3, 16);
    out[thread * 4 + 1] = __reduce_max_sync(0xFFFF0000, value);
  }
  __syncwarp();
  out[thread * 4 + 2] = static_cast<int>(__ballot_sync(0xFFFFFFFF, lane % 3 == 0));
  out[thread * 4 + 3] = __syncthreads_count(lane < 5);
}

constexpr int kTile = 64, kDepth = 32,
              kRow = kDepth + 8;  // a row's 16 bytes more spread the rows over the banks

// 128 threads, 64 x 64 of c: each warp 32 x 32 as 2 x 4 tiles of 16 x 8.
__global__ void __launch_bounds__(128)
    gemm_bf16_kernel(const uint16_t* a, const uint16_t* b, float* c, int m, int n, int k) {
  __shared__ __align__(16) uint16_t a_tile[2][kTile][kRow];
  __shared__ __align__(16) uint16_t b_tile[2][kTile][kRow];
  int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  int first_row = static_cast<int>(blockIdx.y) * kTile, first_column = static_cast<int>(blockIdx.x) * kTile;
  auto load = [&](int stage, int depth) {
    for (int piece = thread; piece < kTile * kDepth / 8; piece += 128) {
      int row = piece / (kDepth / 8), column = piece % (kDepth / 8) * 8;
      int64_t in_a = int64_t{first_row + row} * k + depth + column;
      int64_t in_b = int64_t{first_column + row} * k + depth + column;
      cp_async<16>(&a_tile[stage][row][column], a + in_a, first_row + row < m && depth + column < k);
      cp_async<16>(&b_tile[stage][row][column], b + in_b, first_column + row < n && depth + column < k);
    }
    cp_async_commit();
  };
  float sums[2][4][4] = {};
  load(0, 0);
  for (int depth = 0, stage = 0; depth < k; depth += kDepth, stage ^= 1) {
    load(stage ^ 1, depth + kDepth);
    cp_async_wait<1>();
    __syncthreads();
    for (int step = 0; step < kDepth; step += 16) {
      uint32_t a_parts[2][4], b_parts[4][2];
      for (int i = 0; i < 2; ++i)
        ldmatrix_x4(a_parts[i], &a_tile[stage][warp / 2 * 32 + i * 16 + lane % 16][step + lane / 16 * 8]);
      for (int j = 0; j < 4; ++j)
        ldmatrix_x2(b_parts[j], &b_tile[stage][warp % 2 * 32 + j * 8 + lane % 8][step + lane / 8 % 2 * 8]);
      mma_bf16(sums, a_parts, b_parts);
    }
    __syncthreads();
  }
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 4; ++j)
      for (int part = 0; part < 4; ++part) {
        int row = first_row + warp / 2 * 32 + i * 16 + lane / 4 + part / 2 * 8;
        int column = first_column + warp % 2 * 32 + j * 8 + lane % 4 * 2 + part % 2;
        if (row < m && column < n) c[int64_t{row} * n + column] = sums[i][j][part];
      }
}

__global__ void product_tf32_kernel(const float* a, const float* b, float* c) {
  int group = static_cast<int>(threadIdx.x) / 4, member = static_cast<int>(threadIdx.x) % 4;
  uint32_t a_part[4], b_part[2];
  for (int i = 0; i < 4; ++i) a_part[i] = to_tf32(a[(group + i % 2 * 8) * 8 + member + i / 2 * 4]);
  for (int i = 0; i < 2; ++i) b_part[i] = to_tf32(b[(member + i * 4) * 8 + group]);
  float sums[4] = {};
  mma_tf32(sums, a_part, b_part);
  for (int i = 0; i < 4; ++i) c[(group + i / 2 * 8) * 8 + member * 2 + i % 2] = sums[i];
}

__global__ void fragments_kernel(const uint16_t* rows, uint32_t* registers) {
  __shared__ __align__(16) uint16_t tile[32][8];
  int lane = static_cast<int>(threadIdx.x);
  for (int i = 0; i < 8; ++i) tile[lane][i] = rows[lane * 8 + i];
  __syncwarp();
  uint32_t four[4], two[2];
  uint32_t* out = registers + lane * 12;
  ldmatrix_x4(four, tile[lane]);
  for (uint32_t one : four) *out++ = one;
  ldmatrix_x4_trans(four, tile[lane]);
  for (uint32_t one : four) *out++ = one;
  ldmatrix_x2(two, tile[lane % 16]);
  for (uint32_t one : two) *out++ = one;
  ldmatrix_x2_trans(two, tile[lane % 16]);
  for (uint32_t one : two) *out++ = one;
}

__global__ void shared_words_kernel(uint32_t* out, int words) {
  auto* shared = dynamic_shared<uint32_t>();
  out[0] = shared[0];
  out[1] = shared[words - 1];
  shared[0] = shared[words - 1] = 0;
}

__global__ void mistaken_kernel(Mistake mistake, int* sink) {
  __shared__ int seen;
  int thread = static_cast<int>(threadIdx.x);
  switch (mistake) {
    case Mistake::kDivergentBarrier:
      if (thread < 32)
        __syncthreads();
      else
        __syncthreads();
      break;
    case Mistake::kExitedBeforeBarrier:
      if (thread == 7) return;
      __syncthreads();
      break;
    case Mistake::kWrongMask:
      seen = __shfl_sync(0xFFFFFFFE, thread, 1);
      break;
    case Mistake::kMissingLane:
      if (thread < 31) seen = __shfl_sync(0xFFFFFFFF, thread, 1);
      break;
    case Mistake::kForeignLane:
      if (thread < 16) seen = __shfl_sync(0x0000FFFF, thread, 20);
      break;
    case Mistake::kTrap:
      if (thread == 3) __trap();
      break;
  }
  if (sink != nullptr) *sink = seen;
}

}  // namespace

cudaError_t vector_add(const float* a, const float* b, float* c, int n, cudaStream_t stream) {
  auto config = configuration((n + 127) / 128, 128, stream);
  return cudaLaunchKernelEx(&config, vector_add_kernel, a, b, c, n);
}

cudaError_t block_sums(const float* x, float* sums, int n, cudaStream_t stream) {
  auto config = configuration((n + 255) / 256, 256, stream);
  return cudaLaunchKernelEx(&config, block_sums_kernel, x, sums, n);
}

cudaError_t partial_masks(int* out, cudaStream_t stream) {
  auto config = configuration(1, 64, stream);
  return cudaLaunchKernelEx(&config, partial_masks_kernel, out);
}

cudaError_t gemm_bf16(const void* a, const void* b, float* c, int m, int n, int k, cudaStream_t stream) {
  auto config = configuration((n + kTile - 1) / kTile, 128, stream);
  config.gridDim.y = static_cast<unsigned>((m + kTile - 1) / kTile);
  return cudaLaunchKernelEx(&config, gemm_bf16_kernel, static_cast<const uint16_t*>(a),
                            static_cast<const uint16_t*>(b), c, m, n, k);
}

cudaError_t product_tf32(const float* a, const float* b, float* c, cudaStream_t stream) {
  auto config = configuration(1, 32, stream);
  return cudaLaunchKernelEx(&config, product_tf32_kernel, a, b, c);
}

cudaError_t fragments(const uint16_t* rows, uint32_t* registers, cudaStream_t stream) {
  auto config = configuration(1, 32, stream);
  return cudaLaunchKernelEx(&config, fragments_kernel, rows, registers);
}

cudaError_t shared_words(uint32_t* out, int words, bool ask, cudaStream_t stream) {
  auto config = configuration(1, 1, stream);
  config.dynamicSmemBytes = static_cast<size_t>(words) * sizeof(uint32_t);
  auto bytes = static_cast<int>(config.dynamicSmemBytes);
  if (ask) {
    cudaError_t error =
        cudaFuncSetAttribute(shared_words_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
  }
  return cudaLaunchKernelEx(&config, shared_words_kernel, out, words);
}

cudaError_t mistaken(Mistake mistake, cudaStream_t stream) {
  auto config = configuration(2, 64, stream);
  return cudaLaunchKernelEx(&config, mistaken_kernel, mistake, static_cast<int*>(nullptr));
}

}  // namespace taper::simt_test
