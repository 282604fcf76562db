#include "recipes/data/png.h"

#include <png.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "runtime/error.h"

namespace taper {
namespace {

/// libpng's state for one file. Every function that calls libpng under setjmp keeps its C++ objects out of
/// its own frame, because longjmp runs no destructors.
struct Reader {
  Bytes bytes;
  size_t at = 0;
  char message[200] = "";
  png_structp png = nullptr;
  png_infop info = nullptr;

  explicit Reader(Bytes input) : bytes(input) {
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
    TAPER_CHECK(png, "libpng could not start");
    info = png_create_info_struct(png);
    png_set_read_fn(png, this, on_read);
    png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // check_pixels is the limit
  }
  ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  [[noreturn]] static void on_error(png_structp png, png_const_charp message) {
    auto* reader = static_cast<Reader*>(png_get_error_ptr(png));
    std::snprintf(reader->message, sizeof reader->message, "%s", message);
    png_longjmp(png, 1);
  }
  static void on_warning(png_structp, png_const_charp) {}
  static void on_read(png_structp png, png_bytep to, size_t count) {
    auto* reader = static_cast<Reader*>(png_get_io_ptr(png));
    if (count > reader->bytes.size() - reader->at) png_error(png, "the file is truncated");
    std::memcpy(to, reader->bytes.data() + reader->at, count);
    reader->at += count;
  }
};

struct Header {
  png_uint_32 width = 0, height = 0;
  int depth = 0, color = 0;
  bool grey16() const { return color == PNG_COLOR_TYPE_GRAY && depth == 16; }
  int64_t bytes_per_pixel() const {
    return color & PNG_COLOR_MASK_COLOR && color != PNG_COLOR_TYPE_PALETTE ? 3 : grey16() ? 2 : 1;
  }
};

bool read_header(Reader& reader, Header& header) {
  if (setjmp(png_jmpbuf(reader.png))) return false;
  png_read_info(reader.png, reader.info);
  png_get_IHDR(reader.png, reader.info, &header.width, &header.height, &header.depth, &header.color, nullptr,
               nullptr, nullptr);
  return true;
}

/// Reads all pixels, one byte each for grey values and palette entries (unscaled), two for 16-bit grey, three
/// for colour.
bool read_pixels(Reader& reader, const Header& header, uint8_t* pixels) {
  if (setjmp(png_jmpbuf(reader.png))) return false;
  png_set_packing(reader.png);
  png_set_strip_alpha(reader.png);
  if (!header.grey16()) png_set_strip_16(reader.png);
  const int passes = png_set_interlace_handling(reader.png);
  png_read_update_info(reader.png, reader.info);
  const size_t row = png_get_rowbytes(reader.png, reader.info);
  if (row != static_cast<size_t>(header.width * header.bytes_per_pixel()))
    png_error(reader.png, "unexpected row size");
  for (int pass = 0; pass < passes; ++pass)
    for (png_uint_32 y = 0; y < header.height; ++y) png_read_row(reader.png, pixels + y * row, nullptr);
  png_read_end(reader.png, nullptr);
  return true;
}

}  // namespace

Image decode_png(Bytes bytes, const std::string& file, int64_t max_pixels) {
  Reader reader(bytes);
  Header header;
  if (!read_header(reader, header))
    throw UserError("{}: is not a readable PNG image ({}); replace the file", file, reader.message);
  check_pixels(header.height, header.width, max_pixels, file);

  Image image{header.height, header.width, 3, {}};
  const int64_t count = image.height * image.width;
  std::vector<uint8_t> raw(count * header.bytes_per_pixel());
  if (!read_pixels(reader, header, raw.data()))
    throw UserError("{}: cannot be decoded ({}); replace the file", file, reader.message);
  if (header.bytes_per_pixel() == 3) {
    image.pixels = std::move(raw);
    return image;
  }

  image.pixels.resize(count * 3);
  png_colorp palette = nullptr;
  int colors = 0;
  if (header.color == PNG_COLOR_TYPE_PALETTE) png_get_PLTE(reader.png, reader.info, &palette, &colors);
  const int scale = header.depth < 8 ? 255 / ((1 << header.depth) - 1) : 1;
  for (int64_t i = 0; i < count; ++i) {
    uint8_t* rgb = &image.pixels[i * 3];
    if (palette) {
      const png_color entry = raw[i] < colors ? palette[raw[i]] : png_color{};
      rgb[0] = entry.red, rgb[1] = entry.green, rgb[2] = entry.blue;
    } else if (header.grey16()) {
      std::fill_n(rgb, 3, raw[i * 2] ? 255 : raw[i * 2 + 1]);
    } else {
      std::fill_n(rgb, 3, static_cast<uint8_t>(raw[i] * scale));
    }
  }
  return image;
}

}  // namespace taper
