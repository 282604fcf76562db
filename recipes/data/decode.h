#pragma once
// JPEG and PNG files to 8-bit RGB, with the bytes of Pillow's `Image.open(file).convert("RGB")`.

#include <cstdint>
#include <string>

#include "recipes/data/gzip.h"
#include "recipes/data/image.h"

namespace taper {

/// The largest image that is decoded, in pixels: twice Pillow's MAX_IMAGE_PIXELS, where Pillow also refuses.
constexpr int64_t kMaxPixels = 178'956'970;

/// Decodes a JPEG (grey, YCbCr, RGB, CMYK, YCCK; baseline or progressive) or a PNG (any colour type and
/// depth), told apart by their first bytes, to 3 channels. Alpha is dropped, not composited; colours of 16
/// bits keep their high byte, while grey of 16 bits is clipped at 255, as Pillow does; CMYK is taken as
/// inverted, as Adobe writes it. Orientation tags and colour profiles are ignored.
///
/// Throws UserError, naming `file`, for any other format, a corrupt or truncated file, an image without
/// pixels, and, before memory is allocated, for more than `max_pixels`. JPEG data that is damaged but
/// complete is decoded as far as it goes, as Pillow does.
Image decode_image(Bytes bytes, const std::string& file, int64_t max_pixels = kMaxPixels);

}  // namespace taper
