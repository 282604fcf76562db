#pragma once
// The safetensors format of Hugging Face (https://github.com/huggingface/safetensors): 8 bytes of header
// length (little-endian), a JSON header {"name": {"dtype", "shape", "data_offsets"}, ..., "__metadata__":
// {...}}, data.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/dtype.h"

namespace taper {

/// A named tensor as bytes in memory that somebody else owns: dense, row-major, little-endian. An empty shape
/// is a scalar; an extent of 0 is allowed.
struct TensorBytes {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

/// A file about to be written: the header, and views of the tensors in the file's order.
struct SafetensorsImage {
  /// Orders the tensors by descending alignment of their dtype, then by name, and pads the header to 8 bytes
  /// with spaces, as the Python package does: the same content gives the same bytes, here and there (except
  /// that Python writes several metadata entries in random order; here they are sorted). Failure: a name
  /// twice, a name that is not UTF-8 or is "__metadata__", bytes that do not match the shape.
  explicit SafetensorsImage(std::vector<TensorBytes> tensors,
                            const std::map<std::string, std::string>& metadata = {});
  SafetensorsImage(const SafetensorsImage&) = delete;
  SafetensorsImage& operator=(const SafetensorsImage&) = delete;

  std::string header;  ///< with the 8 bytes of its length
  std::vector<std::span<const std::byte>> pieces;
};

/// Writes the image atomically (see write_file_atomically, also for the errors).
void write_safetensors(const std::filesystem::path& path, std::vector<TensorBytes> tensors,
                       const std::map<std::string, std::string>& metadata = {});

/// A safetensors file read and checked as a whole: header at most 100 MB and of the right types, only known
/// dtypes, every name once, lengths that match the shapes, data that covers the rest of the file without
/// holes or overlaps. UserError names the file, the tensor and what is wrong.
class SafetensorsFile {
 public:
  static SafetensorsFile read(const std::filesystem::path& path);
  /// Takes the content of a file; `shown` is its name in errors.
  static SafetensorsFile parse(std::vector<std::byte> content, const std::string& shown);

  SafetensorsFile(SafetensorsFile&&) = default;
  SafetensorsFile& operator=(SafetensorsFile&&) = default;
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  /// In the order of their data; views that live as long as this object. Files of others need not align the
  /// data to its dtype, so copy it with memcpy.
  const std::vector<TensorBytes>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// The whole file.
  std::span<const std::byte> content() const { return content_; }
  /// nullptr if there is none of that name.
  const TensorBytes* find(std::string_view name) const;
  /// UserError, naming the file, if there is none of that name.
  const TensorBytes& tensor(std::string_view name) const;

 private:
  SafetensorsFile() = default;
  std::string shown_;
  std::vector<std::byte> content_;
  std::vector<TensorBytes> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace taper
