#pragma once
// The CUDA backend with matrix products and convolutions made by NVIDIA's libraries where the options say so.

#include <functional>
#include <memory>
#include <string>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/vendor.h"

namespace taper {

/// A vendor's product is followed by Taper's own epilogue, from sums in f32. A vendor's convolution is
/// rounded to the activations' type before its epilogue, and a vendor's filter gradient before it is added.
/// Provider::vendor is a Failure for a shape that the library has nothing deterministic for.
class ProviderBackend final : public CudaBackend {
 public:
  ProviderBackend(std::string name, int device, const BackendOptions& options,
                  std::unique_ptr<VendorKernels> vendor);

  void matmul(Stream&, const MatmulShape&, DType type, const void* a, const void* b, const MatmulEpilogue&,
              DType out_type, void* out) override;
  /// Which provider makes a convolution is settled here: a filter is packed for one of them.
  FilterFormat filter_format(Stream&, const ConvShape&, DType, ConvPass) override;
  void pack_filter(Stream&, const ConvShape&, DType type, ConvPass, const void* filter,
                   void* packed) override;
  void conv_forward(Stream&, const ConvShape&, DType type, const void* x, const void* packed,
                    const ConvEpilogue&, void* y) override;
  void conv_backward_data(Stream&, const ConvShape&, DType type, const void* dy, const void* packed,
                          void* dx) override;
  void conv_backward_filter(Stream&, const ConvShape&, DType type, const void* x, const void* dy,
                            void* dfilter) override;

 private:
  /// Whether the vendor makes the op; seconds as ProviderChoices::choose has it.
  bool by_vendor(Provider asked, const std::string& key, const std::function<double(Provider)>& seconds);
  bool matmul_by_vendor(CudaStream&, const MatmulShape&, DType type, DType out_type);
  bool conv_by_vendor(CudaStream&, const ConvShape&, DType type, ConvPass);
  bool filter_gradient_by_vendor(CudaStream&, const ConvShape&, DType type);

  std::unique_ptr<VendorKernels> vendor_;
  std::shared_ptr<ProviderChoices> choices_;
};

}  // namespace taper
