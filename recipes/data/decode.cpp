#include "recipes/data/decode.h"

#include <turbojpeg.h>

#include <algorithm>
#include <array>
#include <memory>

#include "recipes/data/png.h"
#include "runtime/error.h"

namespace taper {
namespace {

constexpr std::array<uint8_t, 3> kJpegMagic{0xff, 0xd8, 0xff};
constexpr std::array<uint8_t, 8> kPngMagic{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

template <size_t n>
bool starts_with(Bytes bytes, const std::array<uint8_t, n>& magic) {
  return bytes.size() >= n && std::equal(magic.begin(), magic.end(), bytes.begin());
}

/// Whether the end-of-image marker follows the last start-of-scan marker. Both are unambiguous: inside
/// entropy-coded data, ff is followed by 00 or a restart marker.
bool jpeg_is_complete(Bytes bytes) {
  for (size_t i = bytes.size() - 1; i-- > 0;) {
    if (bytes[i] != 0xff) continue;
    if (bytes[i + 1] == 0xd9) return true;
    if (bytes[i + 1] == 0xda) return false;
  }
  return false;
}

/// Pillow's CMYK to RGB, from the inverted inks of a JPEG file.
void inverted_cmyk_to_rgb(const std::vector<uint8_t>& cmyk, std::vector<uint8_t>& rgb) {
  for (size_t i = 0; i < cmyk.size() / 4; ++i) {
    const int light = cmyk[i * 4 + 3];
    for (int c = 0; c < 3; ++c) {
      const int product = (255 - cmyk[i * 4 + c]) * light + 128;
      rgb[i * 3 + c] = static_cast<uint8_t>(light - ((product + (product >> 8)) >> 8));
    }
  }
}

Image decode_jpeg(Bytes bytes, const std::string& file, int64_t max_pixels) {
  const std::unique_ptr<void, int (*)(tjhandle)> turbo(tjInitDecompress(), tjDestroy);
  TAPER_CHECK(turbo, "TurboJPEG could not start");
  int width = 0, height = 0, subsampling = -1, colorspace = -1;
  // The header call also fails for a subsampling that TurboJPEG has no name for but decodes well; it fills in
  // the size and the colour space even then.
  tjDecompressHeader3(turbo.get(), bytes.data(), bytes.size(), &width, &height, &subsampling, &colorspace);
  if (width < 1 || height < 1 || colorspace < 0) {
    throw UserError("{}: is not a readable JPEG image ({}); replace the file", file,
                    tjGetErrorStr2(turbo.get()));
  }
  check_pixels(height, width, max_pixels, file);

  Image image{height, width, 3, {}};
  const int64_t count = image.height * image.width;
  image.pixels.resize(count * 3);
  const bool inks = colorspace == TJCS_CMYK || colorspace == TJCS_YCCK;
  std::vector<uint8_t> cmyk(inks ? count * 4 : 0);
  const int result =
      tjDecompress2(turbo.get(), bytes.data(), bytes.size(), inks ? cmyk.data() : image.pixels.data(), width,
                    0, height, inks ? TJPF_CMYK : TJPF_RGB, TJFLAG_LIMITSCANS);
  if (result != 0) {
    if (tjGetErrorCode(turbo.get()) != TJERR_WARNING)
      throw UserError("{}: cannot be decoded ({}); replace the file", file, tjGetErrorStr2(turbo.get()));
    if (!jpeg_is_complete(bytes))
      throw UserError("{}: the JPEG image is truncated after {} bytes; replace the file", file, bytes.size());
  }
  if (inks) inverted_cmyk_to_rgb(cmyk, image.pixels);
  return image;
}

}  // namespace

void check_pixels(int64_t height, int64_t width, int64_t max_pixels, const std::string& file) {
  if (width > max_pixels / height) {
    throw UserError(
        "{}: its header claims {} x {} pixels, and more than {} are refused; scale the image down", file,
        width, height, max_pixels);
  }
}

Image decode_image(Bytes bytes, const std::string& file, int64_t max_pixels) {
  if (starts_with(bytes, kJpegMagic)) return decode_jpeg(bytes, file, max_pixels);
  if (starts_with(bytes, kPngMagic)) return decode_png(bytes, file, max_pixels);
  throw UserError("{}: {}; convert it to JPEG or PNG, or remove it", file,
                  bytes.empty() ? "is an empty file" : "is neither a JPEG nor a PNG file");
}

}  // namespace taper
