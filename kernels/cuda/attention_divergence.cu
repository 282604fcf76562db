// What GPUs refuse of attention.

#include "kernels/cuda/cuda.h"
#include "runtime/error.h"

namespace taper {

void CudaBackend::attention_divergence(Stream&, const AttentionPair&, DType, const void*, const void*, void*,
                                       void*) {
  throw UserError("the device {} has no kernel that compares attention; the device cpu has one", name_);
}

}  // namespace taper
