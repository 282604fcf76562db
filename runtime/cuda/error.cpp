#include "runtime/cuda/error.h"

namespace taper {

namespace {

int current_device() {
  int device = -1;
  return cudaGetDevice(&device) == cudaSuccess ? device : -1;
}

}  // namespace

CudaError::CudaError(cudaError_t code, const char* call, const char* file, int line)
    : Failure("{}:{}: {} failed on CUDA device {}: {} ({})", file, line, call, current_device(),
              cudaGetErrorString(code), cudaGetErrorName(code)),
      code_(code) {
  // The error is told here and now: the next call should not report it again.
  cudaGetLastError();
}

}  // namespace taper
