#pragma once
// Datasets that are one array of equally large images: idx (MNIST's format) and CIFAR's binary format.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "recipes/data/dataset.h"
#include "recipes/data/gzip.h"

namespace taper {

/// Images of one size in memory, in file order.
struct ImageArray {
  int64_t height = 0, width = 0;
  int channels = 0;
  std::vector<uint8_t> pixels;  // [count, height, width, channels]
  std::vector<int32_t> labels;  // [count]
};

/// An idx file of unsigned bytes: http://yann.lecun.com/exdb/mnist (magic 00 00 08 rank, then `rank`
/// big-endian 32-bit dimensions, then the values, last dimension fastest).
struct IdxArray {
  std::vector<int64_t> shape;
  std::vector<uint8_t> values;
};

/// Parses an idx file, gzipped or plain, which must have `rank` dimensions, none of them 0, and exactly the
/// values that its header claims. Throws UserError naming `file`.
IdxArray parse_idx(Bytes bytes, int rank, const std::string& file);

/// Appends one file of CIFAR records: `label_bytes` labels of which the last counts, then 32 x 32 bytes each
/// of red, green and blue. Throws UserError, naming `file`, for a size that is no multiple of a record or a
/// label that is not below `classes`.
void append_cifar(Bytes bytes, int label_bytes, int classes, const std::string& file, ImageArray& images);

std::unique_ptr<Dataset> open_idx(const std::string& folder, Split split, int channels);
std::unique_ptr<Dataset> open_cifar(const std::string& folder, int classes, Split split, int channels);

/// Serves `images`, converted to `channels` (0: as they are). Sample i is named after the file that holds it:
/// files[k] holds the samples from starts[k] on.
struct ArrayFiles {
  std::vector<std::string> files;
  std::vector<int64_t> starts;
};
std::unique_ptr<Dataset> array_dataset(ImageArray images, std::vector<std::string> classes, ArrayFiles files,
                                       int channels);

}  // namespace taper
