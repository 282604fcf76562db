#include "kernels/cuda/cuda.h"

#include "runtime/cuda/error.h"
#include "runtime/cuda/nccl.h"

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

std::unique_ptr<Communicator> CudaBackend::connect(Communicator& ranks) {
  return ranks.ranks() == 1 ? nullptr : make_nccl_communicator(ranks, device_);
}

int device_of(const RankPlace& place) {
  int count = 0;
  TAPER_CUDA(cudaGetDeviceCount(&count));
  if (count < place.local_ranks)
    throw UserError(
        "{} ranks on one machine need a GPU each, but rank {} sees {}; start as many ranks as it has GPUs, "
        "and "
        "let each of them see all (CUDA_VISIBLE_DEVICES unset, srun --gpu-bind=none)",
        place.local_ranks, place.rank, count);
  return static_cast<int>(place.local_rank);
}

}  // namespace taper
