#pragma once
// CUDA's errors as exceptions.

#include <cuda_runtime.h>

#include "runtime/error.h"

namespace taper {

/// A call of CUDA's that failed: the call, file, line, device, and CUDA's name and text for the error.
class CudaError final : public Failure {
 public:
  CudaError(cudaError_t code, const char* call, const char* file, int line);
  cudaError_t code() const { return code_; }

 private:
  cudaError_t code_;
};

/// Throws CudaError unless `call` gives cudaSuccess. A kernel's own error shows at a later call, unless
/// CUDA_LAUNCH_BLOCKING=1 is in the environment (launch.h).
#define TAPER_CUDA(call)                                                                            \
  do {                                                                                              \
    const cudaError_t taper_code = (call);                                                          \
    if (taper_code != cudaSuccess) throw ::taper::CudaError(taper_code, #call, __FILE__, __LINE__); \
  } while (false)

}  // namespace taper
