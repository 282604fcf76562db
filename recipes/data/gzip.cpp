#include "recipes/data/gzip.h"

#include <zlib.h>

#include <algorithm>
#include <limits>
#include <memory>

#include "runtime/error.h"

namespace taper {

bool is_gzip(Bytes bytes) { return bytes.size() >= 2 && bytes[0] == 0x1f && bytes[1] == 0x8b; }

std::vector<uint8_t> gunzip(Bytes bytes, int64_t limit, const std::string& file) {
  constexpr int kGzipOnly = 16 + MAX_WBITS;
  constexpr int64_t kFirstBuffer = 1 << 16;
  z_stream stream{};
  TAPER_CHECK(inflateInit2(&stream, kGzipOnly) == Z_OK, "zlib could not start");
  const std::unique_ptr<z_stream, int (*)(z_stream*)> guard(&stream, inflateEnd);

  std::vector<uint8_t> content;
  size_t taken = 0, made = 0;
  int status = Z_OK;
  while (status == Z_OK && static_cast<int64_t>(made) < limit) {
    if (made == content.size()) {
      const auto grown = std::max<int64_t>(kFirstBuffer, 2 * static_cast<int64_t>(content.size()));
      content.resize(static_cast<size_t>(std::min(limit, grown)));
    }
    constexpr size_t kMost = std::numeric_limits<uInt>::max();
    const size_t input = std::min(kMost, bytes.size() - taken);
    const size_t output = std::min(kMost, content.size() - made);
    stream.next_in = const_cast<Bytef*>(bytes.data() + taken);  // zlib's field is not const; it only reads
    stream.avail_in = static_cast<uInt>(input);
    stream.next_out = content.data() + made;
    stream.avail_out = static_cast<uInt>(output);
    status = inflate(&stream, Z_NO_FLUSH);
    taken += input - stream.avail_in;
    made += output - stream.avail_out;
  }
  content.resize(made);
  if (status == Z_STREAM_END && taken != bytes.size()) {
    throw UserError("{}: {} bytes follow the end of the gzip stream at byte {}; download the file again",
                    file, bytes.size() - taken, taken);
  }
  if (status == Z_BUF_ERROR) {
    throw UserError("{}: the gzip stream is truncated after {} bytes; download the file again", file,
                    bytes.size());
  }
  if (status != Z_OK && status != Z_STREAM_END) {
    throw UserError("{}: the gzip stream is corrupt near byte {} ({}); download the file again", file, taken,
                    stream.msg ? stream.msg : "zlib gives no reason");
  }
  return content;
}

}  // namespace taper
