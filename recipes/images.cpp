#include "recipes/images.h"

#include <algorithm>

#include "recipes/data/loader.h"
#include "runtime/error.h"

namespace taper {

namespace {

DataSource source(const DataOptions& options, int64_t limit) {
  return {options.format, options.path, limit, static_cast<int>(options.channels)};
}

std::vector<float> floats(const std::vector<double>& values) { return {values.begin(), values.end()}; }

OnError on_error(const DataOptions& options) {
  return options.on_error == "skip" ? OnError::skip : OnError::stop;
}

}  // namespace

Images::Images(const Configuration& configuration)
    : options_(configuration.data),
      train_(open_dataset(source(options_, options_.train_limit), Split::train)),
      test_(open_dataset(source(options_, options_.test_limit), Split::test)) {
  auto channels = static_cast<size_t>(train_->channels());
  if (!options_.mean.empty() && options_.mean.size() != channels)
    throw UserError(
        "data.mean has {} values, but the images of {} have {} channels; give one value for each, or set "
        "data.channels",
        options_.mean.size(), options_.path, channels);
  int64_t size = options_.image_size;
  if (size == 0) {
    Image image;
    int32_t label = 0;
    train_->read(0, image, label);
    if (image.height != image.width)
      throw UserError("the images of {} are {} x {}; set data.image_size, to which they are then resized",
                      options_.path, image.height, image.width);
    size = image.height;
  }
  facts_ = {.extent = {size, size},
            .channels = train_->channels(),
            .classes = static_cast<int64_t>(train_->classes().size()),
            .train = train_->size(),
            .test = test_->size()};
}

std::unique_ptr<Batches> Images::train_batches(const StageOptions& stage, uint64_t key, int64_t first,
                                               int64_t end, Share share) const {
  Augmentation augmentation{.crop = stage.augmentation.crop,
                            .padding = stage.augmentation.padding,
                            .flip = stage.augmentation.flip,
                            .image_size = facts_.extent.height,
                            .mean = floats(options_.mean),
                            .std = floats(options_.std)};
  return std::make_unique<Loader>(*train_, augmentation,
                                  LoaderOptions{.key = key,
                                                .batch_size = stage.batch_size,
                                                .shuffle = true,
                                                .drop_last = true,
                                                .threads = static_cast<int>(options_.threads),
                                                .on_error = on_error(options_),
                                                .first_step = first,
                                                .end_step = end,
                                                .share = share});
}

std::unique_ptr<Batches> Images::plain_batches(Split split, int64_t batch_size, int64_t limit,
                                               int64_t first) const {
  // Folders hold photographs of all sizes: torchvision's reference evaluation, Resize 256 and CenterCrop 224,
  // in proportion.
  bool folder = options_.format == "folder";
  Augmentation augmentation{.crop = folder ? "center" : "none",
                            .image_size = facts_.extent.height,
                            .resize = folder ? facts_.extent.height * 256 / 224 : 0,
                            .mean = floats(options_.mean),
                            .std = floats(options_.std)};
  const Dataset& dataset = split == Split::train ? *train_ : *test_;
  int64_t samples = limit > 0 ? std::min(limit, dataset.size()) : dataset.size();
  return std::make_unique<Loader>(dataset, augmentation,
                                  LoaderOptions{.batch_size = batch_size,
                                                .threads = static_cast<int>(options_.threads),
                                                .on_error = on_error(options_),
                                                .first_step = first,
                                                .end_step = (samples + batch_size - 1) / batch_size});
}

}  // namespace taper
