// A build without CUDA kernels.

#include "kernels/backend.h"
#include "runtime/error.h"

namespace taper {

std::string cuda_device() { return ""; }

std::unique_ptr<Backend> make_cuda_backend(const BackendOptions&) {
  throw UserError(
      "this build has no CUDA kernels; use the device cpu, or make one with --preset cuda or "
      "-DTAPER_SIMT=ON");
}

}  // namespace taper
