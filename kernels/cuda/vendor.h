#pragma once
// NVIDIA's libraries, behind an interface that a test can stand in for.

#include <memory>

#include "kernels/conv.h"
#include "kernels/matmul.h"
#include "runtime/cuda/stream.h"

namespace taper {

/// Members queue their work on the stream; they return false, and have queued nothing, where the library has
/// no deterministic way for the shape and type. Several threads may call, each with its own stream.
class VendorKernels {
 public:
  virtual ~VendorKernels() = default;
  /// out = scale * product, or out += it; otherwise as MatmulKernels::matmul.
  virtual bool matmul(CudaStream&, const MatmulShape&, DType type, bool tf32, const void* a, const void* b,
                      double scale, bool accumulate, DType out_type, void* out) = 0;
  /// y = conv(x, filter), the filter KRSC of `type`.
  virtual bool conv_forward(CudaStream&, const ConvShape&, DType type, bool tf32, const void* x,
                            const void* filter, void* y) = 0;
  virtual bool conv_backward_data(CudaStream&, const ConvShape&, DType type, bool tf32, const void* dy,
                                  const void* filter, void* dx) = 0;
  /// dfilter = the gradient of the filter: KRSC of `type`, to which it is rounded.
  virtual bool conv_backward_filter(CudaStream&, const ConvShape&, DType type, bool tf32, const void* x,
                                    const void* dy, void* dfilter) = 0;
};

/// cuBLASLt and cuDNN, each loaded when it is first wanted (`matmul`, `convolution`). UserError that names
/// the library where it cannot be loaded, or where this build was made without its headers.
std::unique_ptr<VendorKernels> make_vendor_kernels(bool matmul, bool convolution);

}  // namespace taper
