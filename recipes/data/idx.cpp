#include <algorithm>
#include <filesystem>
#include <limits>

#include "recipes/data/array.h"
#include "runtime/error.h"
#include "runtime/file.h"

namespace taper {
namespace {

int64_t header_bytes(int rank) { return 4 + 4 * rank; }

/// Checks the header and returns the dimensions.
std::vector<int64_t> parse_header(Bytes bytes, int rank, const std::string& file) {
  if (static_cast<int64_t>(bytes.size()) < header_bytes(rank)) {
    throw UserError("{}: is truncated: {} bytes, and an idx header has {}; download the file again", file,
                    bytes.size(), header_bytes(rank));
  }
  if (bytes[0] != 0 || bytes[1] != 0 || bytes[2] != 8 || bytes[3] != rank) {
    throw UserError(
        "{}: begins with {:02x}{:02x}{:02x}{:02x} instead of {:08x}, so it is no idx file of bytes with {} "
        "dimensions; check that images and labels are not exchanged",
        file, bytes[0], bytes[1], bytes[2], bytes[3], 0x0800 + rank, rank);
  }
  std::vector<int64_t> shape;
  for (int d = 0; d < rank; ++d) {
    const uint8_t* at = &bytes[4 + 4 * d];
    shape.push_back(int64_t{at[0]} << 24 | at[1] << 16 | at[2] << 8 | at[3]);
    if (shape.back() == 0) {
      throw UserError("{}: dimension {} in its header is 0, so it holds no {}; use a file with data", file, d,
                      rank == 1 ? "labels"
                      : d == 0  ? "images"
                                : "pixels");
    }
  }
  return shape;
}

/// The bytes a file must have, or UserError where its header claims more than any file can hold.
int64_t file_bytes(const std::vector<int64_t>& shape, const std::string& file) {
  constexpr int64_t kMost = int64_t{1} << 40;
  int64_t count = 1;
  for (const int64_t size : shape) {
    if (count > kMost / size) {
      throw UserError("{}: its header claims more than {} bytes of data; download the file again", file,
                      kMost);
    }
    count *= size;
  }
  return header_bytes(static_cast<int>(shape.size())) + count;
}

/// `name` or `name`.gz inside the folder, whichever exists.
std::string find_file(const std::string& folder, const std::string& name) {
  std::string plain = (std::filesystem::path(folder) / name).string();
  if (std::filesystem::exists(plain)) return plain;
  if (std::filesystem::exists(plain + ".gz")) return plain + ".gz";
  throw UserError(
      "{}: there is neither this file nor {}.gz; set the data path to the folder that holds MNIST's "
      "four idx files",
      plain, name);
}

IdxArray load(const std::string& file, int rank) { return parse_idx(numbers(read_file(file)), rank, file); }

/// The number of classes: one more than the largest training label, each of which must occur, so that a stray
/// label is noticed.
int64_t count_classes(const IdxArray& labels, const std::string& file) {
  std::vector<bool> seen(256);
  for (const uint8_t label : labels.values) seen[label] = true;
  const int64_t largest = *std::max_element(labels.values.begin(), labels.values.end());
  const auto gap = std::find(seen.begin(), seen.end(), false) - seen.begin();
  if (gap <= largest) {
    throw UserError(
        "{}: label {} is out of range: no image has label {}; number the classes 0, 1, 2, ... without "
        "a gap",
        file, largest, gap);
  }
  return largest + 1;
}

}  // namespace

IdxArray parse_idx(Bytes bytes, int rank, const std::string& file) {
  std::vector<uint8_t> inflated;
  IdxArray array;
  if (is_gzip(bytes)) {
    // The header first, so that a stream can only grow to what it claims.
    array.shape = parse_header(gunzip(bytes, header_bytes(rank), file), rank, file);
    inflated = gunzip(bytes, file_bytes(array.shape, file) + 1, file);
    bytes = inflated;
  } else {
    array.shape = parse_header(bytes, rank, file);
  }
  const int64_t expected = file_bytes(array.shape, file), found = static_cast<int64_t>(bytes.size());
  if (found < expected) {
    throw UserError("{}: is truncated: its header claims {} bytes and there are {}; download the file again",
                    file, expected, found);
  }
  if (found > expected) {
    throw UserError("{}: more data follows the {} bytes that its header claims; download the file again",
                    file, expected);
  }
  array.values.assign(bytes.begin() + header_bytes(rank), bytes.end());
  return array;
}

std::unique_ptr<Dataset> open_idx(const std::string& folder, Split split, int channels) {
  const std::string prefix = split == Split::train ? "train" : "t10k";
  const std::string train_label_file = find_file(folder, "train-labels-idx1-ubyte");
  const std::string image_file = find_file(folder, prefix + "-images-idx3-ubyte");
  const std::string label_file = find_file(folder, prefix + "-labels-idx1-ubyte");

  const IdxArray train_labels = load(train_label_file, 1);
  const int64_t classes = count_classes(train_labels, train_label_file);
  const IdxArray labels = split == Split::train ? train_labels : load(label_file, 1);
  IdxArray pixels = load(image_file, 3);
  if (pixels.shape[0] != labels.shape[0]) {
    throw UserError("{}: holds {} images, but {} holds {} labels; download both files again", image_file,
                    pixels.shape[0], label_file, labels.shape[0]);
  }
  const auto stray = std::find_if(labels.values.begin(), labels.values.end(),
                                  [&](uint8_t label) { return label >= classes; });
  if (stray != labels.values.end()) {
    throw UserError(
        "{}: label {} at byte {} is out of range: the training set has the classes 0 to {}; download "
        "the file again",
        label_file, *stray, header_bytes(1) + (stray - labels.values.begin()), classes - 1);
  }

  ImageArray images{pixels.shape[1], pixels.shape[2], 1, std::move(pixels.values), {}};
  images.labels.assign(labels.values.begin(), labels.values.end());
  std::vector<std::string> names;
  for (int64_t c = 0; c < classes; ++c) names.push_back(std::to_string(c));
  return array_dataset(std::move(images), std::move(names), {{image_file}, {0}}, channels);
}

}  // namespace taper
