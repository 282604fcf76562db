// The kernels' device in a build with runtime/simt: the CPU.

#include "kernels/cuda/cuda.h"

namespace taper {

std::string cuda_device() { return "sim"; }

std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options) {
  return std::make_unique<CudaBackend>("sim", 0, options);
}

}  // namespace taper
