#pragma once
// 8-bit images and the geometry that training does to them, with Pillow's bytes as the definition.

#include <cstdint>
#include <vector>

namespace taper {

/// Pixels in [height, width, channels] order; 1 channel (grey) or 3 (red, green, blue).
struct Image {
  int64_t height = 0, width = 0;
  int channels = 0;
  std::vector<uint8_t> pixels;
};

/// A rectangle of pixels.
struct Box {
  int64_t top = 0, left = 0, height = 0, width = 0;
};

/// Grey to colour repeats the value; colour to grey is Pillow's convert("L"), ITU-R 601 luma in 16-bit fixed
/// point.
Image convert_channels(Image image, int channels);

/// The pixels of `box`, which may reach outside the image: zero there.
Image crop(const Image& image, const Box& box);

/// Antialiased bilinear resampling to height x width, byte for byte the resize(BILINEAR) of Pillow 13: a
/// triangle filter as wide as the reduction, with 22-bit fixed-point weights and rounding to 8 bits after
/// each of two passes. The pass along the rows comes first, unless the height loses more than twice as many
/// pixels as the width (there, Pillow before 13 differs by the rounding between the passes).
Image resize(const Image& image, int64_t height, int64_t width);

/// crop(resize(image, height, width), window) without making the rest. The window must lie inside.
Image resize(const Image& image, int64_t height, int64_t width, const Box& window);

/// Mirrors left and right.
void flip_horizontally(Image& image);

}  // namespace taper
