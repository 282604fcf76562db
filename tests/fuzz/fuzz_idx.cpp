// Any bytes as an idx file, gzipped or plain: UserError, or exactly the values that the shape asks for. The
// first byte chooses the rank.

#include <cstdint>
#include <cstdlib>

#include "recipes/data/array.h"
#include "runtime/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace taper;
  if (size == 0) return 0;
  const int rank = data[0] % 2 == 0 ? 1 : 3;
  try {
    const IdxArray array = parse_idx(Bytes(data + 1, size - 1), rank, "input");
    int64_t count = 1;
    for (const int64_t extent : array.shape) count *= extent;
    if (static_cast<int>(array.shape.size()) != rank || count != static_cast<int64_t>(array.values.size()))
      std::abort();
  } catch (const UserError&) {
    return 0;
  }
  return 0;
}
