#pragma once
// Labelled images on disk, by index.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "recipes/data/image.h"

namespace taper {

enum class Split { train, test };

/// Where a dataset is and how it is read.
struct DataSource {
  /// "idx": `path` holds MNIST's four files (train-images-idx3-ubyte, ..., t10k-labels-idx1-ubyte), each
  /// plain or with .gz. "cifar10": data_batch_1.bin ... data_batch_5.bin and test_batch.bin. "cifar100":
  /// train.bin and test.bin, fine labels. "folder": path/train/<class>/* and path/val/<class>/* (the test
  /// split), JPEG and PNG, classes in byte order of their names as torchvision's ImageFolder numbers them.
  std::string format;
  std::string path;
  /// 0, or to keep only this many samples, drawn by a fixed shuffle that depends on nothing but the number of
  /// samples; so a smaller limit keeps a prefix of what a larger one keeps.
  int64_t limit = 0;
  /// What images are converted to: 1 (grey), 3 (RGB), or 0 for the format's own (idx 1, the others 3).
  int channels = 0;
};

/// A finite list of labelled images. Every method may be called by several threads at once.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual int64_t size() const = 0;
  /// Channels of every image that `read` gives: 1 or 3.
  virtual int channels() const = 0;
  /// The class names; a label is an index into them, the same in both splits.
  virtual const std::vector<std::string>& classes() const = 0;
  /// Decodes sample `index`, 0 <= index < size(). Throws UserError, naming the sample, if it cannot be read.
  virtual void read(int64_t index, Image& image, int32_t& label) const = 0;
  /// The sample's file, and its position where the file holds several: for messages.
  virtual std::string name(int64_t index) const = 0;
};

/// Opens a split and checks all that can be checked without decoding every image. Throws UserError naming the
/// file, what is wrong with it (missing, truncated, wrong magic, counts that disagree, a label out of range,
/// no classes, an empty class) and the remedy.
std::unique_ptr<Dataset> open_dataset(const DataSource& source, Split split);

}  // namespace taper
