// Step 1: a thread per output, which reads its row of a and its column of b from global memory. Neighbouring
// threads have neighbouring columns, so that b is read in whole sectors and a by all lanes at once. Two loads
// for every multiplication.

#include "kernels/cuda/ladder/ladder.h"
#include "runtime/cuda/launch.h"
#include "runtime/cuda/stream.h"

namespace taper::ladder {

namespace {

constexpr int kAcross = 32, kDown = 8;

__global__ void __launch_bounds__(kAcross* kDown)
    naive_kernel(int64_t m, int64_t n, int64_t k, int64_t column_blocks, const float* a, const float* b,
                 float* out) {
  const int64_t row = blockIdx.x / column_blocks * kDown + threadIdx.y;
  const int64_t column = blockIdx.x % column_blocks * kAcross + threadIdx.x;
  if (row >= m || column >= n) return;
  float sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += a[row * k + i] * b[i * n + column];
  out[row * n + column] = sum;
}

}  // namespace

void naive(Stream& stream, int64_t m, int64_t n, int64_t k, const void* a, const void* b, float* out) {
  const int64_t down = blocks_for(m, kDown), across = blocks_for(n, kAcross);
  launch(naive_kernel, blocks_for(down * across, 1), dim3(kAcross, kDown), 0, cuda_stream(stream).handle(), m,
         n, k, across, static_cast<const float*>(a), static_cast<const float*>(b), out);
}

}  // namespace taper::ladder
