#pragma once
// TensorBoard's event files, scalars only: TFRecord framing (length, masked CRC-32C, payload, masked CRC-32C,
// little-endian) around tensorflow.Event messages in protobuf's wire format.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace taper {

struct Scalar {
  std::string tag;
  double value;  ///< stored as float
};

/// CRC-32C (Castagnoli; RFC 3720 appendix B.4) of `bytes`.
uint32_t crc32c(std::string_view bytes);

/// The record that starts an event file. `wall_time`: seconds since 1970.
std::string event_file_start(double wall_time);

/// One record with the scalars of one step.
std::string scalar_event(double wall_time, int64_t step, std::span<const Scalar> scalars);

}  // namespace taper
