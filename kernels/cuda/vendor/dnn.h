#pragma once
// cuDNN's convolutions, by its classic interface: NHWC images and KRSC filters, and those of its algorithms
// that are documented as deterministic.

#include <cudnn.h>

#include <map>
#include <mutex>

#include "kernels/conv.h"
#include "kernels/cuda/vendor/library.h"
#include "runtime/cuda/stream.h"

namespace taper {

class VendorDnn {
 public:
  VendorDnn();
  ~VendorDnn();
  VendorDnn(const VendorDnn&) = delete;
  VendorDnn& operator=(const VendorDnn&) = delete;
  /// As VendorKernels' members.
  bool conv_forward(CudaStream&, const ConvShape&, DType type, bool tf32, const void* x, const void* filter,
                    void* y);
  bool conv_backward_data(CudaStream&, const ConvShape&, DType type, bool tf32, const void* dy,
                          const void* filter, void* dx);
  bool conv_backward_filter(CudaStream&, const ConvShape&, DType type, bool tf32, const void* x,
                            const void* dy, void* dfilter);

 private:
  struct Descriptors;
  /// The handle of a stream, whose thread alone uses it.
  cudnnHandle_t handle(CudaStream&);
  void require(cudnnStatus_t status, const char* call) const;

  Library library_;
  decltype(cudnnCreate)* create_;
  decltype(cudnnDestroy)* destroy_;
  decltype(cudnnSetStream)* set_stream_;
  decltype(cudnnGetErrorString)* status_text_;
  decltype(cudnnCreateTensorDescriptor)* create_tensor_;
  decltype(cudnnDestroyTensorDescriptor)* destroy_tensor_;
  decltype(cudnnSetTensor4dDescriptor)* set_tensor_;
  decltype(cudnnCreateFilterDescriptor)* create_filter_;
  decltype(cudnnDestroyFilterDescriptor)* destroy_filter_;
  decltype(cudnnSetFilter4dDescriptor)* set_filter_;
  decltype(cudnnCreateConvolutionDescriptor)* create_convolution_;
  decltype(cudnnDestroyConvolutionDescriptor)* destroy_convolution_;
  decltype(cudnnSetConvolution2dDescriptor)* set_convolution_;
  decltype(cudnnSetConvolutionGroupCount)* set_groups_;
  decltype(cudnnSetConvolutionMathType)* set_math_;
  decltype(cudnnGetConvolutionForwardWorkspaceSize)* forward_bytes_;
  decltype(cudnnConvolutionForward)* forward_;
  decltype(cudnnGetConvolutionBackwardDataWorkspaceSize)* backward_data_bytes_;
  decltype(cudnnConvolutionBackwardData)* backward_data_;
  decltype(cudnnGetConvolutionBackwardFilterWorkspaceSize)* backward_filter_bytes_;
  decltype(cudnnConvolutionBackwardFilter)* backward_filter_;
  std::mutex mutex_;
  std::map<cudaStream_t, cudnnHandle_t> handles_;
};

}  // namespace taper
