#include "kernels/backend.h"
#include "runtime/error.h"

namespace taper {

std::vector<std::string> devices() {
  std::vector<std::string> result{"cpu"};
  if (!cuda_device().empty()) result.push_back(cuda_device());
  return result;
}

std::unique_ptr<Backend> make_backend(const std::string& name, const BackendOptions& options) {
  if (name == "cpu" && options.tf32)
    throw UserError(
        "the device cpu has no tf32, which is a format of GPUs' tensor cores; the devices cuda and sim have "
        "it, and f32 and bf16 are on all");
  if (name != "cuda" && (options.matmul != Provider::own || options.convolution != Provider::own))
    throw UserError(
        "matmul and convolution can be \"vendor\" or \"auto\" on the device cuda, where cuBLAS and cuDNN "
        "are; "
        "the device {} has its own kernels only",
        name);
  if (name == "cpu") return make_cpu_backend();
  if (!name.empty() && name == cuda_device()) return make_cuda_backend(options);
  const std::string there = fmt::format("{}", fmt::join(devices(), " and "));
  if (name == "cuda")
    throw UserError("this build has no device cuda, it has {}; 'cmake --preset cuda' makes one that has it",
                    there);
  if (name == "sim")
    throw UserError(
        "this build has no device sim, it has {}; it comes with -DTAPER_SIMT=ON, which needs CUDA's headers",
        there);
  throw UserError("there is no device \"{}\"; there are cpu, sim and cuda, and in this build {}", name,
                  there);
}

}  // namespace taper
