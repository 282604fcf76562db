#pragma once
// From an image to the network's input: crop, flip, normalise, with torchvision's definitions.

#include <cstdint>
#include <string>
#include <vector>

#include "recipes/data/image.h"
#include "runtime/philox.h"

namespace taper {

/// One stage's transforms; all resampling is antialiased bilinear (image.h).
struct Augmentation {
  /// "none": resize to image_size x image_size. "pad": the same, then `padding` black pixels on each side and
  /// a random crop back to image_size. "random_resized": torchvision's RandomResizedCrop (scale 0.08 to 1,
  /// aspect ratio 3/4 to 4/3). "center": resize the shorter side to `resize`, then crop the center.
  std::string crop = "none";
  int64_t padding = 0;  // for "pad" only
  /// Mirror every other image, by chance.
  bool flip = false;
  int64_t image_size = 0;
  int64_t resize = 0;  // for "center" only
  /// Per channel, of values in [0, 1]; empty: 0 and 1.
  std::vector<float> mean, std;
};

/// What RandomResizedCrop cuts out of a height x width image: up to ten tries of an area and an aspect ratio,
/// then the largest central box of a permitted ratio (torchvision's get_params). Bits depend on the draws
/// alone: only exactly rounded operations are used.
Box random_resized_box(int64_t height, int64_t width, Draws& draws);

/// What Resize(resize) + CenterCrop(size) cuts out of the resized image, which is height x width: offsets as
/// torchvision rounds them; negative where the image is smaller and zeros surround it.
Box center_box(int64_t height, int64_t width, int64_t size);

/// The size after torchvision's Resize(resize): the shorter side is `resize`, the longer is rounded down.
Box resized_size(int64_t height, int64_t width, int64_t resize);

class Augmenter {
 public:
  /// Throws UserError for settings that make no sense together.
  Augmenter(const Augmentation& augmentation, int channels);
  /// Writes image_size x image_size x channels floats, (value / 255 - mean) / std. Uses up `image`.
  void apply(Image image, Draws draws, float* out) const;
  int64_t image_size() const { return augmentation_.image_size; }
  int channels() const { return channels_; }

 private:
  Augmentation augmentation_;
  int channels_;
  std::vector<float> normalized_;  // [channels, 256]
};

}  // namespace taper
