#pragma once
// Files read through the system's page cache, without a copy in memory.

#include <cstddef>
#include <filesystem>
#include <span>

namespace taper {

/// A regular file mapped for reading. Nobody may shorten it while it is mapped: files that are replaced by
/// rename (write_file_atomically) keep their old content for those who mapped it.
class MappedFile {
 public:
  /// UserError: not there, not readable, or not a regular file. Failure: the system refuses to map it.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  /// At the start of a page; empty for an empty file.
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace taper
