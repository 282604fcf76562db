#pragma once
// A kernel with its arguments, ready to run on a CPU; and how cudaLaunchKernelEx makes one.

#include <driver_types.h>

#include <cstddef>
#include <memory>
#include <tuple>
#include <utility>

namespace taper::simt {

struct KernelSymbol;

/// A grid to run. `call(kernel, arguments)` is one thread's run through the kernel.
struct Launch {
  const void* kernel = nullptr;
  const KernelSymbol* symbol = nullptr;  // found by enqueue
  dim3 grid, block;
  size_t shared_bytes = 0;
  std::shared_ptr<const void> arguments;
  size_t argument_bytes = 0;
  void (*call)(const void* kernel, const void* arguments) = nullptr;
};

/// Checks the grid against the limits of the device, then puts it into the stream's queue.
cudaError_t enqueue(Launch launch, cudaStream_t stream);

}  // namespace taper::simt

/// As in CUDA: `arguments` are converted to the kernel's parameters and copied before it returns. Attributes
/// of the configuration are refused (clusters, cooperative launches: there is none here).
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  using Packed = std::tuple<Parameters...>;
  if (config->numAttrs != 0) return cudaErrorNotSupported;
  return taper::simt::enqueue(
      {.kernel = reinterpret_cast<const void*>(kernel),
       .symbol = nullptr,
       .grid = config->gridDim,
       .block = config->blockDim,
       .shared_bytes = config->dynamicSmemBytes,
       .arguments = std::make_shared<const Packed>(std::forward<Arguments>(arguments)...),
       .argument_bytes = sizeof(Packed),
       .call =
           [](const void* kernel, const void* packed) {
             std::apply(reinterpret_cast<void (*)(Parameters...)>(const_cast<void*>(kernel)),
                        *static_cast<const Packed*>(packed));
           }},
      config->stream);
}
