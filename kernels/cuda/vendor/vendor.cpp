// NVIDIA's libraries in a build that has their headers.

#include "kernels/cuda/vendor.h"

#include "kernels/cuda/vendor/blas.h"
#include "kernels/cuda/vendor/dnn.h"

namespace taper {

namespace {

class NvidiaKernels final : public VendorKernels {
 public:
  NvidiaKernels(bool matmul, bool convolution) {
    if (matmul) blas_ = std::make_unique<VendorBlas>();
    if (convolution) dnn_ = std::make_unique<VendorDnn>();
  }
  bool matmul(CudaStream& stream, const MatmulShape& shape, DType type, bool tf32, const void* a,
              const void* b, double scale, bool accumulate, DType out_type, void* out) override {
    return blas_->matmul(stream, shape, type, tf32, a, b, scale, accumulate, out_type, out);
  }
  bool conv_forward(CudaStream& stream, const ConvShape& shape, DType type, bool tf32, const void* x,
                    const void* filter, void* y) override {
    return dnn_->conv_forward(stream, shape, type, tf32, x, filter, y);
  }
  bool conv_backward_data(CudaStream& stream, const ConvShape& shape, DType type, bool tf32, const void* dy,
                          const void* filter, void* dx) override {
    return dnn_->conv_backward_data(stream, shape, type, tf32, dy, filter, dx);
  }
  bool conv_backward_filter(CudaStream& stream, const ConvShape& shape, DType type, bool tf32, const void* x,
                            const void* dy, void* dfilter) override {
    return dnn_->conv_backward_filter(stream, shape, type, tf32, x, dy, dfilter);
  }

 private:
  std::unique_ptr<VendorBlas> blas_;
  std::unique_ptr<VendorDnn> dnn_;
};

}  // namespace

std::unique_ptr<VendorKernels> make_vendor_kernels(bool matmul, bool convolution) {
  return std::make_unique<NvidiaKernels>(matmul, convolution);
}

}  // namespace taper
