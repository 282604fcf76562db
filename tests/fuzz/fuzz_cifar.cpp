// Any bytes as a file of CIFAR records: UserError, or labels in range and pixels in proportion. The first
// byte chooses between CIFAR-10 and CIFAR-100.

#include <cstdint>
#include <cstdlib>

#include "recipes/data/array.h"
#include "runtime/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace taper;
  if (size == 0) return 0;
  const bool small = data[0] % 2 == 0;
  const int classes = small ? 10 : 100;
  try {
    ImageArray images;
    append_cifar(Bytes(data + 1, size - 1), small ? 1 : 2, classes, "input", images);
    if (images.labels.empty() || images.pixels.size() != images.labels.size() * 3072) std::abort();
    for (const int32_t label : images.labels)
      if (label < 0 || label >= classes) std::abort();
  } catch (const UserError&) {
    return 0;
  }
  return 0;
}
