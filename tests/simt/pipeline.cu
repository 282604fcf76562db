#include "kernels/cuda/ptx.cuh"
#include "tests/simt/kernels.h"

namespace taper::simt_test {

namespace {

constexpr int kThreads = 64;

// Thread i sums, over all steps, what thread i ^ 33 copied: element step * 64 + (i ^ 33). Two buffers, filled
// one step ahead.
template <Fault kFault>
__global__ void __launch_bounds__(kThreads) sum_columns_kernel(const float* x, float* sums, int steps) {
  __shared__ __align__(16) float buffer[2][kThreads];
  int thread = static_cast<int>(threadIdx.x);
  auto load = [&](int step) {
    if (step < steps) cp_async<4>(&buffer[step % 2][thread], x + step * kThreads + thread, true);
    cp_async_commit();
  };
  float sum = 0;
  load(0);
  for (int step = 0; step < steps; ++step) {
    load(step + 1);
    if (kFault != Fault::kMissingWait) cp_async_wait<1>();
    if (kFault != Fault::kMissingBarrierBeforeRead) __syncthreads();
    sum += buffer[step % 2][thread ^ 33];
    if (kFault != Fault::kMissingBarrierAfterRead) __syncthreads();
  }
  sums[thread] = sum;
}

}  // namespace

cudaError_t sum_columns(const float* x, float* sums, int steps, Fault fault, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(1);
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  auto run = [&](auto kernel) { return cudaLaunchKernelEx(&config, kernel, x, sums, steps); };
  switch (fault) {
    case Fault::kMissingWait:
      return run(sum_columns_kernel<Fault::kMissingWait>);
    case Fault::kMissingBarrierBeforeRead:
      return run(sum_columns_kernel<Fault::kMissingBarrierBeforeRead>);
    case Fault::kMissingBarrierAfterRead:
      return run(sum_columns_kernel<Fault::kMissingBarrierAfterRead>);
    default:
      return run(sum_columns_kernel<Fault::kNone>);
  }
}

}  // namespace taper::simt_test
