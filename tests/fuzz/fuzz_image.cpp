// Any bytes as a JPEG or PNG file: UserError, or an RGB image that every transform takes. The pixel limit is
// low, so that the fuzzer spends its time on formats and not on large images.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "recipes/data/augment.h"
#include "recipes/data/decode.h"
#include "runtime/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace taper;
  constexpr int64_t kMaxFuzzedPixels = 1 << 14;
  Image image;
  try {
    image = decode_image(Bytes(data, size), "input", kMaxFuzzedPixels);
  } catch (const UserError&) {
    return 0;
  }
  if (image.channels != 3 || image.height < 1 || image.width < 1 ||
      static_cast<int64_t>(image.pixels.size()) != image.height * image.width * 3)
    std::abort();
  Augmentation augmentation;
  augmentation.image_size = 7;
  augmentation.padding = 2;
  augmentation.resize = 9;
  augmentation.flip = true;
  for (const char* crop : {"pad", "random_resized", "center"}) {
    augmentation.crop = crop;
    std::vector<float> out(7 * 7 * 3, -1.0f);
    Augmenter(augmentation, 3).apply(image, Draws(1, 0, size), out.data());
    if (!std::all_of(out.begin(), out.end(), [](float x) { return x >= 0 && x <= 1; })) std::abort();
  }
  return 0;
}
