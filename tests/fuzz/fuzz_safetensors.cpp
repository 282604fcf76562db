// Any bytes: the file is read within its bounds or refused with a sentence. What is read can be written, and
// comes back the same.

#include <algorithm>
#include <cstdlib>

#include "runtime/error.h"
#include "runtime/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto bytes = std::as_bytes(std::span(data, size));
  try {
    auto file = taper::SafetensorsFile::parse({bytes.begin(), bytes.end()}, "input");
    std::vector<std::byte> copy;
    taper::SafetensorsImage image(file.tensors(), file.metadata());
    for (auto piece : image.pieces) copy.insert(copy.end(), piece.begin(), piece.end());
    auto again = taper::SafetensorsFile::parse(std::move(copy), "copy");
    if (again.metadata() != file.metadata() || again.tensors().size() != file.tensors().size()) std::abort();
    for (const taper::TensorBytes& tensor : file.tensors()) {
      const taper::TensorBytes& other = again.tensor(tensor.name);
      if (other.dtype != tensor.dtype || other.shape != tensor.shape ||
          !std::equal(other.bytes.begin(), other.bytes.end(), tensor.bytes.begin(), tensor.bytes.end()))
        std::abort();
    }
  } catch (const taper::UserError&) {
    return 0;
  }
  return 0;
}
