#pragma once
// What a benchmark asks of a CUDA device: how long its work takes, and how fast it could be.

#include <functional>
#include <optional>
#include <string>

#include "runtime/stream.h"

namespace taper {

/// Seconds on the device from the beginning to the end of what `work` issues to the CUDA stream, by events;
/// waits for both. The time on the device includes waiting for the host, where `work` issues too slowly.
double cuda_seconds(Stream& stream, const std::function<void()>& work);

/// Bounds by the device's clocks and widths: multiply-adds of each kind, counted twice, and memory.
struct CudaPeak {
  double f32, tf32, bf16;  ///< FLOP/s, dense, sums in f32
  double memory;           ///< bytes/s
};
/// None for a compute capability that the table has not, and for the device sim, where it would mean nothing.
std::optional<CudaPeak> cuda_peak(int device);

}  // namespace taper
