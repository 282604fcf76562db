// A build for GPUs that was made without the headers of NVIDIA's libraries.

#include "kernels/cuda/vendor.h"
#include "runtime/error.h"

namespace taper {

std::unique_ptr<VendorKernels> make_vendor_kernels(bool, bool) {
  throw UserError(
      "this build has no cuBLAS and cuDNN: it was configured where their headers were not (cublasLt.h, "
      "cudnn.h; "
      "PyPI has them as nvidia-cublas and nvidia-cudnn-cu13); the provider \"own\" needs neither");
}

}  // namespace taper
