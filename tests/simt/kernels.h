#pragma once
// Small kernels that the tests of runtime/simt run. All pointers are the device's.

#include <cuda_runtime.h>

#include <cstdint>

namespace taper::simt_test {

/// c = a + b, n elements: no barriers.
cudaError_t vector_add(const float* a, const float* b, float* c, int n, cudaStream_t stream);

/// sums[i] is the sum of block i's 256 elements: shuffles within warps, then shared memory and a barrier.
cudaError_t block_sums(const float* x, float* sums, int n, cudaStream_t stream);

/// Each warp splits into halves that shuffle by masks of their own; then counts are taken by votes. out: 64
/// x 4.
cudaError_t partial_masks(int* out, cudaStream_t stream);

/// c (m x n) = a (m x k) b^T (n x k), bf16 in and f32 out: tensor-core products of fragments that ldmatrix
/// loads from two shared buffers, filled by cp.async in turn. Any m, n; k a multiple of 8.
cudaError_t gemm_bf16(const void* a, const void* b, float* c, int m, int n, int k, cudaStream_t stream);

/// One warp: c (16x8) = a (16x8) b (8x8), row major, by one tf32 product.
cudaError_t product_tf32(const float* a, const float* b, float* c, cudaStream_t stream);

/// One warp: the registers that the four kinds of ldmatrix load from the 32 x 8 16-bit elements in rows; 32
/// x 12.
cudaError_t fragments(const uint16_t* rows, uint32_t* registers, cudaStream_t stream);

/// Writes the first and the last of `words` words of dynamic shared memory, as found, to out.
cudaError_t shared_words(uint32_t* out, int words, bool ask, cudaStream_t stream);

/// What is missing in sum_columns.
enum class Fault { kNone, kMissingWait, kMissingBarrierBeforeRead, kMissingBarrierAfterRead };

/// sums[i] is the sum of x[64 step + (i ^ 33)] over the steps, i < 64: through two shared buffers filled by
/// cp.async.
cudaError_t sum_columns(const float* x, float* sums, int steps, Fault fault, cudaStream_t stream);

/// Mistakes that the launch must report.
enum class Mistake { kDivergentBarrier, kExitedBeforeBarrier, kWrongMask, kMissingLane, kForeignLane, kTrap };
cudaError_t mistaken(Mistake mistake, cudaStream_t stream);

/// What only a checker of each access sees, and kernels beside them in which nothing is wrong (kNothing,
/// kSyncwarp, kFence). x: 128, count: 0.
enum class Broken {
  kNothing,
  kReadBeyondGlobal,
  kWriteBeyondGlobal,
  kBeforeGlobal,
  kBeyondShared,
  kBeyondDynamic,
  kUninitialised,
  kUninitialisedDynamic,
  kMisaligned,
  kBlocksWriteTheSame,
  kBlocksReadWhatOthersWrite,
  kNoSyncwarp,
  kSyncwarp,
  kSyncwarpAcrossWarps,
  kOverwritten,
  kNoFence,
  kFence
};
cudaError_t run_broken(Broken broken, float* x, int* count);

/// One warp transposes 32 x 32 floats, `stride` apart, through a shared tile, whose rows are one float longer
/// if padded.
cudaError_t transpose(const float* x, float* out, int stride, bool padded);

/// out[i] = x[i] (0 where i is odd) + x[32 + i], i < 32: one warp, one cp.async for each summand.
cudaError_t copy_some(const float* x, float* out);

}  // namespace taper::simt_test
