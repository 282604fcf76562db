#include "recipes/data/image.h"

#include <algorithm>
#include <cmath>

#include "runtime/error.h"

namespace taper {
namespace {

// The largest number of bits for which 255 times a weight still fits a signed 32-bit sum.
constexpr int kWeightBits = 32 - 8 - 2;

/// For each output position: the inputs it is made of and their fixed-point weights.
struct Filter {
  struct Taps {
    int64_t first, count;
  };
  std::vector<Taps> taps;
  std::vector<int32_t> weights;  // [output, stride]
  int64_t stride = 0;

  int64_t first_input() const { return taps.front().first; }
  int64_t inputs() const { return taps.back().first + taps.back().count - first_input(); }
};

/// The triangle filter for `input` samples resampled to `output`, at the output positions [first, first +
/// count). Taps count from the first input that is used.
Filter triangle(int64_t input, int64_t output, int64_t first, int64_t count) {
  const double scale = static_cast<double>(input) / static_cast<double>(output);
  const double support = std::max(scale, 1.0);
  Filter filter;
  filter.stride = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  filter.taps.resize(count);
  filter.weights.resize(count * filter.stride);
  std::vector<double> exact(filter.stride);
  for (int64_t i = 0; i < count; ++i) {
    const double center = (static_cast<double>(first + i) + 0.5) * scale;
    const int64_t begin = std::max<int64_t>(0, static_cast<int64_t>(std::floor(center - support + 0.5)));
    const int64_t end = std::min(input, static_cast<int64_t>(std::floor(center + support + 0.5)));
    double total = 0;
    for (int64_t x = begin; x < end; ++x) {
      const double distance = std::abs((static_cast<double>(x) - center + 0.5) * (1.0 / support));
      exact[x - begin] = distance < 1.0 ? 1.0 - distance : 0.0;
      total += exact[x - begin];
    }
    filter.taps[i] = {begin, end - begin};
    for (int64_t x = 0; x < end - begin; ++x) {
      filter.weights[i * filter.stride + x] =
          static_cast<int32_t>(std::floor(exact[x] / total * (1 << kWeightBits) + 0.5));
    }
  }
  return filter;
}

uint8_t round_to_byte(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kWeightBits, 0, 255)); }

constexpr int32_t kHalf = 1 << (kWeightBits - 1);

template <int channels>
void resample_row(const uint8_t* in, const Filter& filter, uint8_t* out) {
  const int64_t shift = filter.first_input();
  for (size_t i = 0; i < filter.taps.size(); ++i) {
    const auto [first, count] = filter.taps[i];
    const int32_t* weights = &filter.weights[i * filter.stride];
    int32_t sums[channels];
    std::fill(sums, sums + channels, kHalf);
    for (int64_t x = 0; x < count; ++x)
      for (int c = 0; c < channels; ++c) sums[c] += in[(first - shift + x) * channels + c] * weights[x];
    for (int c = 0; c < channels; ++c) out[i * channels + c] = round_to_byte(sums[c]);
  }
}

Image resample_across(const Image& image, const Filter& filter) {
  Image out{image.height, static_cast<int64_t>(filter.taps.size()), image.channels, {}};
  out.pixels.resize(out.height * out.width * out.channels);
  const auto resample = image.channels == 1 ? resample_row<1> : resample_row<3>;
  for (int64_t y = 0; y < image.height; ++y) {
    resample(&image.pixels[y * image.width * image.channels], filter,
             &out.pixels[y * out.width * out.channels]);
  }
  return out;
}

Image resample_down(const Image& image, const Filter& filter) {
  Image out{static_cast<int64_t>(filter.taps.size()), image.width, image.channels, {}};
  out.pixels.resize(out.height * out.width * out.channels);
  const int64_t row = image.width * image.channels, shift = filter.first_input();
  std::vector<int32_t> sums(row);
  for (int64_t y = 0; y < out.height; ++y) {
    const auto [first, count] = filter.taps[y];
    std::fill(sums.begin(), sums.end(), kHalf);
    for (int64_t k = 0; k < count; ++k) {
      const int32_t weight = filter.weights[y * filter.stride + k];
      const uint8_t* in = &image.pixels[(first - shift + k) * row];
      for (int64_t i = 0; i < row; ++i) sums[i] += in[i] * weight;
    }
    for (int64_t i = 0; i < row; ++i) out.pixels[y * row + i] = round_to_byte(sums[i]);
  }
  return out;
}

}  // namespace

Image convert_channels(Image image, int channels) {
  TAPER_CHECK(channels == 1 || channels == 3, "channels is {}", channels);
  if (image.channels == channels) return image;
  Image out{image.height, image.width, channels, {}};
  const int64_t count = image.height * image.width;
  out.pixels.resize(count * channels);
  for (int64_t i = 0; i < count; ++i) {
    if (channels == 3) {
      std::fill_n(&out.pixels[i * 3], 3, image.pixels[i]);
    } else {
      const uint8_t* rgb = &image.pixels[i * 3];
      out.pixels[i] = static_cast<uint8_t>((rgb[0] * 19595 + rgb[1] * 38470 + rgb[2] * 7471 + 0x8000) >> 16);
    }
  }
  return out;
}

Image crop(const Image& image, const Box& box) {
  Image out{box.height, box.width, image.channels, {}};
  out.pixels.resize(box.height * box.width * image.channels);
  const int64_t left = std::clamp<int64_t>(box.left, 0, image.width);
  const int64_t right = std::clamp<int64_t>(box.left + box.width, left, image.width);
  if (left == right) return out;
  for (int64_t y = 0; y < box.height; ++y) {
    const int64_t from = box.top + y;
    if (from < 0 || from >= image.height) continue;
    std::copy_n(&image.pixels[(from * image.width + left) * image.channels], (right - left) * image.channels,
                &out.pixels[(y * box.width + left - box.left) * image.channels]);
  }
  return out;
}

Image resize(const Image& image, int64_t height, int64_t width) {
  return resize(image, height, width, {0, 0, height, width});
}

Image resize(const Image& image, int64_t height, int64_t width, const Box& window) {
  TAPER_CHECK(image.height > 0 && image.width > 0, "an image of {} x {} pixels", image.height, image.width);
  TAPER_CHECK(window.top >= 0 && window.left >= 0 && window.height > 0 && window.width > 0 &&
                  window.top + window.height <= height && window.left + window.width <= width,
              "the window lies inside {} x {}", height, width);
  if (image.height == height && image.width == width) return crop(image, window);

  const Filter across = triangle(image.width, width, window.left, window.width);
  const Filter down = triangle(image.height, height, window.top, window.height);
  const Image used = crop(image, {down.first_input(), across.first_input(), down.inputs(), across.inputs()});
  const bool down_first = image.height > height && image.height - height > 2 * (image.width - width);
  return down_first ? resample_across(resample_down(used, down), across)
                    : resample_down(resample_across(used, across), down);
}

void flip_horizontally(Image& image) {
  for (int64_t y = 0; y < image.height; ++y) {
    uint8_t* row = &image.pixels[y * image.width * image.channels];
    for (int64_t left = 0, right = image.width - 1; left < right; ++left, --right) {
      std::swap_ranges(row + left * image.channels, row + (left + 1) * image.channels,
                       row + right * image.channels);
    }
  }
}

}  // namespace taper
