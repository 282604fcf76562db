// The kernels' device in a build for GPUs: one of those that CUDA_VISIBLE_DEVICES leaves.

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/provider_backend.h"
#include "runtime/cuda/error.h"

namespace taper {

namespace {

// Compiled for the same architectures as all kernels: stands for them when a GPU is asked whether it can run
// them.
__global__ void __launch_bounds__(cuda::kWarp) probe() {}

constexpr const char* kOthers =
    "--device cpu works everywhere, and so does --device sim in a build with -DTAPER_SIMT=ON";

void require_gpu() {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaErrorInsufficientDriver)
    throw UserError("the device cuda needs a newer NVIDIA driver than this machine's: {}; {}",
                    cudaGetErrorString(code), kOthers);
  if (code != cudaSuccess || count == 0)
    throw UserError("the device cuda needs an NVIDIA GPU, and this machine shows none ({}); {}",
                    cudaGetErrorString(code == cudaSuccess ? cudaErrorNoDevice : code), kOthers);
}

void require_kernels(int device) {
  cudaFuncAttributes attributes{};
  const cudaError_t code = cudaFuncGetAttributes(&attributes, probe);
  if (code == cudaSuccess) return;
  if (code != cudaErrorNoKernelImageForDevice && code != cudaErrorInvalidDeviceFunction) TAPER_CUDA(code);
  cudaDeviceProp properties{};
  TAPER_CUDA(cudaGetDeviceProperties(&properties, device));
  throw UserError(
      "the GPU {} has compute capability {}.{}, for which this build has no kernels; configure with "
      "-DCMAKE_CUDA_ARCHITECTURES={}{} (8.0 is the least); {}",
      properties.name, properties.major, properties.minor, properties.major, properties.minor, kOthers);
}

}  // namespace

std::string cuda_device() { return "cuda"; }

std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options) {
  require_gpu();
  const int device = device_of(options.place);
  TAPER_CUDA(cudaSetDevice(device));
  require_kernels(device);
  const bool matmul = options.matmul != Provider::own, convolution = options.convolution != Provider::own;
  if (!matmul && !convolution) return std::make_unique<CudaBackend>("cuda", device, options);
  return std::make_unique<ProviderBackend>("cuda", device, options, make_vendor_kernels(matmul, convolution));
}

}  // namespace taper
