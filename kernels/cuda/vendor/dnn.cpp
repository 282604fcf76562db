#include "kernels/cuda/vendor/dnn.h"

namespace taper {

namespace {

// Those that cuDNN documents as deterministic and has in NHWC.
constexpr auto kForward = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
constexpr auto kBackwardData = CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
constexpr auto kBackwardFilter = CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;
constexpr float kOne = 1, kZero = 0;

}  // namespace

/// A convolution as cuDNN wants it described.
struct VendorDnn::Descriptors {
  Descriptors(const VendorDnn& with, const ConvShape& s, DType type, bool tf32) : dnn(with) {
    const cudnnDataType_t data = type == DType::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
    auto number = [](int64_t value) { return static_cast<int>(value); };
    dnn.require(dnn.create_tensor_(&x), "cudnnCreateTensorDescriptor");
    dnn.require(dnn.create_tensor_(&y), "cudnnCreateTensorDescriptor");
    dnn.require(dnn.create_filter_(&filter), "cudnnCreateFilterDescriptor");
    dnn.require(dnn.create_convolution_(&convolution), "cudnnCreateConvolutionDescriptor");
    dnn.require(
        dnn.set_tensor_(x, CUDNN_TENSOR_NHWC, data, number(s.n), number(s.c), number(s.h), number(s.w)),
        "cudnnSetTensor4dDescriptor");
    dnn.require(dnn.set_tensor_(y, CUDNN_TENSOR_NHWC, data, number(s.n), number(s.k), number(s.out_h()),
                                number(s.out_w())),
                "cudnnSetTensor4dDescriptor");
    dnn.require(dnn.set_filter_(filter, data, CUDNN_TENSOR_NHWC, number(s.k), number(s.c / s.groups),
                                number(s.r), number(s.s)),
                "cudnnSetFilter4dDescriptor");
    dnn.require(dnn.set_convolution_(convolution, number(s.padding), number(s.padding), number(s.stride),
                                     number(s.stride), number(s.dilation), number(s.dilation),
                                     CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT),
                "cudnnSetConvolution2dDescriptor");
    dnn.require(dnn.set_groups_(convolution, number(s.groups)), "cudnnSetConvolutionGroupCount");
    // cuDNN's default for f32 is tf32.
    const cudnnMathType_t math = type == DType::bf16 || tf32 ? CUDNN_TENSOR_OP_MATH : CUDNN_FMA_MATH;
    dnn.require(dnn.set_math_(convolution, math), "cudnnSetConvolutionMathType");
  }
  ~Descriptors() {
    if (convolution != nullptr) dnn.destroy_convolution_(convolution);
    if (filter != nullptr) dnn.destroy_filter_(filter);
    if (y != nullptr) dnn.destroy_tensor_(y);
    if (x != nullptr) dnn.destroy_tensor_(x);
  }
  Descriptors(const Descriptors&) = delete;
  Descriptors& operator=(const Descriptors&) = delete;

  const VendorDnn& dnn;
  cudnnTensorDescriptor_t x = nullptr, y = nullptr;
  cudnnFilterDescriptor_t filter = nullptr;
  cudnnConvolutionDescriptor_t convolution = nullptr;
};

VendorDnn::VendorDnn() : library_("libcudnn.so.9", "convolution") {
  library_.find(create_, "cudnnCreate");
  library_.find(destroy_, "cudnnDestroy");
  library_.find(set_stream_, "cudnnSetStream");
  library_.find(status_text_, "cudnnGetErrorString");
  library_.find(create_tensor_, "cudnnCreateTensorDescriptor");
  library_.find(destroy_tensor_, "cudnnDestroyTensorDescriptor");
  library_.find(set_tensor_, "cudnnSetTensor4dDescriptor");
  library_.find(create_filter_, "cudnnCreateFilterDescriptor");
  library_.find(destroy_filter_, "cudnnDestroyFilterDescriptor");
  library_.find(set_filter_, "cudnnSetFilter4dDescriptor");
  library_.find(create_convolution_, "cudnnCreateConvolutionDescriptor");
  library_.find(destroy_convolution_, "cudnnDestroyConvolutionDescriptor");
  library_.find(set_convolution_, "cudnnSetConvolution2dDescriptor");
  library_.find(set_groups_, "cudnnSetConvolutionGroupCount");
  library_.find(set_math_, "cudnnSetConvolutionMathType");
  library_.find(forward_bytes_, "cudnnGetConvolutionForwardWorkspaceSize");
  library_.find(forward_, "cudnnConvolutionForward");
  library_.find(backward_data_bytes_, "cudnnGetConvolutionBackwardDataWorkspaceSize");
  library_.find(backward_data_, "cudnnConvolutionBackwardData");
  library_.find(backward_filter_bytes_, "cudnnGetConvolutionBackwardFilterWorkspaceSize");
  library_.find(backward_filter_, "cudnnConvolutionBackwardFilter");
}

VendorDnn::~VendorDnn() {
  for (const auto& [stream, handle] : handles_) destroy_(handle);
}

void VendorDnn::require(cudnnStatus_t status, const char* call) const {
  TAPER_CHECK(status == CUDNN_STATUS_SUCCESS, "{} failed: {}", call, status_text_(status));
}

cudnnHandle_t VendorDnn::handle(CudaStream& stream) {
  std::lock_guard lock(mutex_);
  cudnnHandle_t& result = handles_[stream.handle()];
  if (result == nullptr) {
    require(create_(&result), "cudnnCreate");
    require(set_stream_(result, stream.handle()), "cudnnSetStream");
  }
  return result;
}

bool VendorDnn::conv_forward(CudaStream& stream, const ConvShape& s, DType type, bool tf32, const void* x,
                             const void* filter, void* y) {
  const Descriptors d(*this, s, type, tf32);
  const cudnnHandle_t with = handle(stream);
  size_t bytes = 0;
  const cudnnStatus_t status = forward_bytes_(with, d.x, d.filter, d.convolution, d.y, kForward, &bytes);
  if (CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED) return false;
  require(status, "cudnnGetConvolutionForwardWorkspaceSize");
  require(forward_(with, &kOne, d.x, x, d.filter, filter, d.convolution, kForward,
                   stream.scratch(static_cast<int64_t>(bytes)), bytes, &kZero, d.y, y),
          "cudnnConvolutionForward");
  return true;
}

bool VendorDnn::conv_backward_data(CudaStream& stream, const ConvShape& s, DType type, bool tf32,
                                   const void* dy, const void* filter, void* dx) {
  const Descriptors d(*this, s, type, tf32);
  const cudnnHandle_t with = handle(stream);
  size_t bytes = 0;
  const cudnnStatus_t status =
      backward_data_bytes_(with, d.filter, d.y, d.convolution, d.x, kBackwardData, &bytes);
  if (CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED) return false;
  require(status, "cudnnGetConvolutionBackwardDataWorkspaceSize");
  require(backward_data_(with, &kOne, d.filter, filter, d.y, dy, d.convolution, kBackwardData,
                         stream.scratch(static_cast<int64_t>(bytes)), bytes, &kZero, d.x, dx),
          "cudnnConvolutionBackwardData");
  return true;
}

bool VendorDnn::conv_backward_filter(CudaStream& stream, const ConvShape& s, DType type, bool tf32,
                                     const void* x, const void* dy, void* dfilter) {
  const Descriptors d(*this, s, type, tf32);
  const cudnnHandle_t with = handle(stream);
  size_t bytes = 0;
  const cudnnStatus_t status =
      backward_filter_bytes_(with, d.x, d.y, d.convolution, d.filter, kBackwardFilter, &bytes);
  if (CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED) return false;
  require(status, "cudnnGetConvolutionBackwardFilterWorkspaceSize");
  require(backward_filter_(with, &kOne, d.x, x, d.y, dy, d.convolution, kBackwardFilter,
                           stream.scratch(static_cast<int64_t>(bytes)), bytes, &kZero, d.filter, dfilter),
          "cudnnConvolutionBackwardFilter");
  return true;
}

}  // namespace taper
