#pragma once
// File contents as bytes, and gzip streams.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace taper {

using Bytes = std::span<const uint8_t>;

/// The same bytes, as the decoders take them.
inline Bytes numbers(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
}

/// Whether the bytes begin as a gzip stream does.
bool is_gzip(Bytes bytes);

/// The first `limit` bytes of the gzip stream's content, or all of it where it is shorter. Memory grows with
/// what is really there, not with `limit`. Where the content ends within the limit, its checksum is verified
/// and nothing may follow it. Throws UserError, naming `file`, for a corrupt or truncated stream.
std::vector<uint8_t> gunzip(Bytes bytes, int64_t limit, const std::string& file);

}  // namespace taper
