#pragma once
// The PNG half of decode.h, apart because libpng reports errors by longjmp.

#include <cstdint>
#include <string>

#include "recipes/data/gzip.h"
#include "recipes/data/image.h"

namespace taper {

/// As decode_image, for bytes that begin with PNG's signature.
Image decode_png(Bytes bytes, const std::string& file, int64_t max_pixels);

/// Throws UserError, naming `file`, for more than `max_pixels` pixels. Requires height > 0.
void check_pixels(int64_t height, int64_t width, int64_t max_pixels, const std::string& file);

}  // namespace taper
