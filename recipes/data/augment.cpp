#include "recipes/data/augment.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "runtime/error.h"

namespace taper {
namespace {

constexpr double kMinRatio = 3.0 / 4.0, kMaxRatio = 4.0 / 3.0, kLogMaxRatio = 0.28768207245178090;

/// e^x for |x| < 0.3 by its series, to the last bit or two. libm's exp may differ between machines by a bit,
/// and a crop by a pixel with it.
double small_exp(double x) {
  double sum = 1;
  for (int k = 13; k > 0; --k) sum = 1 + x / k * sum;
  return sum;
}

int64_t round_to_even(double x) { return static_cast<int64_t>(std::nearbyint(x)); }

void check(const Augmentation& a, int channels) {
  const bool known = a.crop == "none" || a.crop == "pad" || a.crop == "random_resized" || a.crop == "center";
  if (!known) {
    throw UserError("crop = \"{}\" is not known; use \"none\", \"pad\", \"random_resized\" or \"center\"",
                    a.crop);
  }
  constexpr int64_t kMostPixels = 1 << 15;
  for (const auto& [name, value, least] : {std::tuple{"image_size", a.image_size, 1},
                                           {"padding", a.padding, 0},
                                           {"resize", a.resize, a.crop == "center" ? 1 : 0}}) {
    if (value < least || value > kMostPixels) {
      throw UserError("{} = {} with crop = \"{}\"; use a number from {} to {}", name, value, a.crop, least,
                      kMostPixels);
    }
  }
  for (const auto& [name, values] : {std::pair{"mean", a.mean}, {"std", a.std}}) {
    if (!values.empty() && static_cast<int>(values.size()) != channels) {
      throw UserError("{} has {} values, but the images have {} channel{}; give one for each", name,
                      values.size(), channels, channels == 1 ? "" : "s");
    }
  }
  for (const float value : a.std) {
    if (!(value > 0))
      throw UserError("std = {} is not positive; give the standard deviation of each channel", value);
  }
}

}  // namespace

Box random_resized_box(int64_t height, int64_t width, Draws& draws) {
  const double area = static_cast<double>(height) * static_cast<double>(width);
  for (int attempt = 0; attempt < 10; ++attempt) {
    const double target = area * (0.08 + (1.0 - 0.08) * draws.uniform());
    const double ratio = small_exp(kLogMaxRatio * (2.0 * draws.uniform() - 1.0));
    Box box;
    box.width = round_to_even(std::sqrt(target * ratio));
    box.height = round_to_even(std::sqrt(target / ratio));
    if (box.width < 1 || box.width > width || box.height < 1 || box.height > height) continue;
    box.top = draws.below(static_cast<uint32_t>(height - box.height + 1));
    box.left = draws.below(static_cast<uint32_t>(width - box.width + 1));
    return box;
  }
  Box box{0, 0, height, width};
  const double ratio = static_cast<double>(width) / static_cast<double>(height);
  if (ratio < kMinRatio) box.height = round_to_even(static_cast<double>(width) / kMinRatio);
  if (ratio > kMaxRatio) box.width = round_to_even(static_cast<double>(height) * kMaxRatio);
  box.top = (height - box.height) / 2;
  box.left = (width - box.width) / 2;
  return box;
}

Box center_box(int64_t height, int64_t width, int64_t size) {
  // Half of a surplus is rounded to even, half of a deficit down.
  const auto offset = [size](int64_t extent) {
    const int64_t surplus = extent - size;
    return surplus < 0 ? -(-surplus / 2) : surplus / 2 + (surplus % 4 == 3);
  };
  return {offset(height), offset(width), size, size};
}

Box resized_size(int64_t height, int64_t width, int64_t resize) {
  if (width <= height) return {0, 0, resize * height / width, resize};
  return {0, 0, resize, resize * width / height};
}

Augmenter::Augmenter(const Augmentation& augmentation, int channels)
    : augmentation_(augmentation), channels_(channels) {
  check(augmentation_, channels_);
  for (int c = 0; c < channels_; ++c) {
    for (int v = 0; v < 256; ++v) {
      normalized_.push_back(
          (static_cast<float>(v) / 255.0f - (augmentation_.mean.empty() ? 0.0f : augmentation_.mean[c])) /
          (augmentation_.std.empty() ? 1.0f : augmentation_.std[c]));
    }
  }
}

void Augmenter::apply(Image image, Draws draws, float* out) const {
  const int64_t size = augmentation_.image_size;
  TAPER_CHECK(image.channels == channels_, "an image has {} channels instead of {}", image.channels,
              channels_);
  if (augmentation_.crop == "center") {
    const Box whole = resized_size(image.height, image.width, augmentation_.resize);
    const Box box = center_box(whole.height, whole.width, size);
    // Resamples only what the crop keeps; a long, thin image would otherwise grow without bound.
    const Box window{std::max<int64_t>(box.top, 0), std::max<int64_t>(box.left, 0),
                     std::min(whole.height, size), std::min(whole.width, size)};
    image = resize(image, whole.height, whole.width, window);
    image = crop(image, {box.top - window.top, box.left - window.left, size, size});
  } else if (augmentation_.crop == "random_resized") {
    image = resize(crop(image, random_resized_box(image.height, image.width, draws)), size, size);
  } else if (image.height != size || image.width != size) {
    image = resize(image, size, size);
  }
  if (augmentation_.crop == "pad") {
    const int64_t padding = augmentation_.padding;
    const auto positions = static_cast<uint32_t>(2 * padding + 1);
    const int64_t top = draws.below(positions), left = draws.below(positions);
    image = crop(image, {top - padding, left - padding, size, size});
  }
  if (augmentation_.flip && draws.word() >> 31) flip_horizontally(image);
  const int64_t pixels = size * size;
  for (int64_t i = 0; i < pixels; ++i) {
    for (int c = 0; c < channels_; ++c)
      out[i * channels_ + c] = normalized_[c * 256 + image.pixels[i * channels_ + c]];
  }
}

}  // namespace taper
