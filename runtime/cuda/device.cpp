#include "runtime/cuda/device.h"

#include "runtime/cuda/stream.h"

namespace taper {

namespace {

/// Multiply-adds a multiprocessor makes in a clock (CUDA C++ Programming Guide, "Arithmetic Instructions",
/// and NVIDIA's architecture white papers for tensor cores).
struct PerClock {
  int capability, f32, tf32, bf16;
};
constexpr PerClock kPerClock[] = {{80, 64, 512, 1024},
                                  {86, 128, 256, 512},
                                  {89, 128, 256, 512},
                                  {90, 128, 1024, 2048},
                                  {100, 128, 2048, 4096}};

/// An event that remembers when it was reached, as CudaEvent does not.
struct TimedEvent {
  TimedEvent() { TAPER_CUDA(cudaEventCreate(&event)); }
  ~TimedEvent() { cudaEventDestroy(event); }
  TimedEvent(const TimedEvent&) = delete;
  TimedEvent& operator=(const TimedEvent&) = delete;
  cudaEvent_t event = nullptr;
};

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  TAPER_CUDA(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

}  // namespace

double cuda_seconds(Stream& stream, const std::function<void()>& work) {
  const cudaStream_t queue = cuda_stream(stream).handle();
  TimedEvent begin, end;
  TAPER_CUDA(cudaEventRecord(begin.event, queue));
  work();
  TAPER_CUDA(cudaEventRecord(end.event, queue));
  TAPER_CUDA(cudaEventSynchronize(end.event));
  float milliseconds = 0;
  TAPER_CUDA(cudaEventElapsedTime(&milliseconds, begin.event, end.event));
  return 1e-3 * static_cast<double>(milliseconds);
}

std::optional<CudaPeak> cuda_peak(int device) {
  const int capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
                         attribute(cudaDevAttrComputeCapabilityMinor, device);
  for (const PerClock& each : kPerClock) {
    if (each.capability != capability) continue;
    int kilohertz = 0, memory_kilohertz = 0;
    // sim has no clocks.
    if (cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&memory_kilohertz, cudaDevAttrMemoryClockRate, device) != cudaSuccess) {
      cudaGetLastError();
      return std::nullopt;
    }
    const double clocks =
        2e3 * static_cast<double>(kilohertz) * attribute(cudaDevAttrMultiProcessorCount, device);
    return CudaPeak{.f32 = clocks * each.f32,
                    .tf32 = clocks * each.tf32,
                    .bf16 = clocks * each.bf16,
                    // Twice a clock.
                    .memory = 2e3 * static_cast<double>(memory_kilohertz) *
                              attribute(cudaDevAttrGlobalMemoryBusWidth, device) / 8};
  }
  return std::nullopt;
}

}  // namespace taper
