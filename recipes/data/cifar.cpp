#include <filesystem>
#include <sstream>

#include "recipes/data/array.h"
#include "runtime/error.h"
#include "runtime/file.h"

namespace taper {
namespace {

constexpr int64_t kSide = 32, kPlane = kSide * kSide;

/// One name per line as the archives have them, or the labels' numbers where the file was left behind.
std::vector<std::string> read_names(const std::string& file, int classes) {
  std::vector<std::string> names;
  if (!std::filesystem::exists(file)) {
    for (int c = 0; c < classes; ++c) names.push_back(std::to_string(c));
    return names;
  }
  const auto bytes = read_file(file);
  std::istringstream lines(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  for (std::string line; std::getline(lines, line);)
    if (!line.empty()) names.push_back(line);
  if (static_cast<int>(names.size()) != classes) {
    throw UserError("{}: has {} class names instead of {}; download the file again, or remove it", file,
                    names.size(), classes);
  }
  return names;
}

}  // namespace

void append_cifar(Bytes bytes, int label_bytes, int classes, const std::string& file, ImageArray& images) {
  const int64_t record = label_bytes + 3 * kPlane, size = static_cast<int64_t>(bytes.size());
  if (size == 0 || size % record != 0) {
    throw UserError(
        "{}: has {} bytes, which is no multiple of the {} bytes of a record, so it is truncated or not "
        "CIFAR's binary version; download the file again",
        file, size, record);
  }
  images.height = images.width = kSide;
  images.channels = 3;
  const int64_t count = size / record, before = static_cast<int64_t>(images.labels.size());
  images.labels.resize(before + count);
  images.pixels.resize((before + count) * 3 * kPlane);
  for (int64_t i = 0; i < count; ++i) {
    const uint8_t* at = &bytes[i * record];
    const int label = at[label_bytes - 1];
    if (label >= classes) {
      throw UserError(
          "{}: label {} at byte {} is out of range: the classes are 0 to {}; check that the format is "
          "the right one, or download the file again",
          file, label, i * record + label_bytes - 1, classes - 1);
    }
    images.labels[before + i] = label;
    uint8_t* out = &images.pixels[(before + i) * 3 * kPlane];
    for (int64_t p = 0; p < kPlane; ++p)
      for (int64_t c = 0; c < 3; ++c) out[p * 3 + c] = at[label_bytes + c * kPlane + p];
  }
}

std::unique_ptr<Dataset> open_cifar(const std::string& folder, int classes, Split split, int channels) {
  const std::filesystem::path path(folder);
  const bool small = classes == 10;
  std::vector<std::string> files{small ? "test_batch.bin" : "test.bin"};
  if (split == Split::train && small) {
    files = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
             "data_batch_5.bin"};
  }
  if (split == Split::train && !small) files = {"train.bin"};

  ImageArray images;
  ArrayFiles index;
  for (const std::string& name : files) {
    index.files.push_back((path / name).string());
    index.starts.push_back(static_cast<int64_t>(images.labels.size()));
    append_cifar(numbers(read_file(index.files.back())), small ? 1 : 2, classes, index.files.back(), images);
  }
  auto names = read_names((path / (small ? "batches.meta.txt" : "fine_label_names.txt")).string(), classes);
  return array_dataset(std::move(images), std::move(names), std::move(index), channels);
}

}  // namespace taper
