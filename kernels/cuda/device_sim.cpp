// The kernels' device in a build with runtime/simt: the CPU.

#include "kernels/cuda/cuda.h"

namespace taper {

std::string cuda_device() { return "sim"; }

std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options) {
  return std::make_unique<CudaBackend>("sim", device_of(options.place), options);
}

}  // namespace taper
