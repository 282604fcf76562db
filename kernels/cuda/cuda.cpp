#include "kernels/cuda/cuda.h"

#include "runtime/cuda/error.h"

namespace taper {

std::map<std::string, std::string> CudaBackend::versions() const {
  int runtime = 0;
  TAPER_CUDA(cudaRuntimeGetVersion(&runtime));
  cudaDeviceProp properties{};
  TAPER_CUDA(cudaGetDeviceProperties(&properties, device_));
  return {{"CUDA", fmt::format("{}.{}", runtime / 1000, runtime % 1000 / 10)},
          {"instruction_set", fmt::format("compute capability {}.{} ({})", properties.major, properties.minor,
                                          properties.name)}};
}

std::unique_ptr<Stream> CudaBackend::make_stream(int) { return std::make_unique<CudaStream>(device_); }

}  // namespace taper
