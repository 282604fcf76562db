#include "recipes/data/array.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace taper {
namespace {

class ArrayDataset : public Dataset {
 public:
  ArrayDataset(ImageArray images, std::vector<std::string> classes, ArrayFiles files, int channels)
      : images_(std::move(images)),
        classes_(std::move(classes)),
        files_(std::move(files)),
        channels_(channels ? channels : images_.channels) {}
  int64_t size() const override { return static_cast<int64_t>(images_.labels.size()); }
  int channels() const override { return channels_; }
  const std::vector<std::string>& classes() const override { return classes_; }
  void read(int64_t index, Image& image, int32_t& label) const override {
    const int64_t bytes = images_.height * images_.width * images_.channels;
    const auto begin = images_.pixels.begin() + index * bytes;
    image.height = images_.height;
    image.width = images_.width;
    image.channels = images_.channels;
    image.pixels.assign(begin, begin + bytes);
    if (channels_ != image.channels) image = convert_channels(std::move(image), channels_);
    label = images_.labels[index];
  }
  std::string name(int64_t index) const override {
    const auto file =
        std::upper_bound(files_.starts.begin(), files_.starts.end(), index) - files_.starts.begin() - 1;
    return fmt::format("{}, image {}", files_.files[file], index - files_.starts[file]);
  }

 private:
  ImageArray images_;
  std::vector<std::string> classes_;
  ArrayFiles files_;
  int channels_;
};

}  // namespace

std::unique_ptr<Dataset> array_dataset(ImageArray images, std::vector<std::string> classes, ArrayFiles files,
                                       int channels) {
  return std::make_unique<ArrayDataset>(std::move(images), std::move(classes), std::move(files), channels);
}

}  // namespace taper
