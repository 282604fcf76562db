#pragma once
// Lines of text from files and pipes, as they come.

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>

namespace taper {

/// What becomes of bytes that are not UTF-8.
enum class InvalidText { refuse, replace };

class LineReader {
 public:
  /// A line may have 16 MiB: memory stays bounded.
  static constexpr size_t kLongestLine = size_t{16} << 20;

  /// Opens a file. UserError: it cannot be opened.
  LineReader(const std::filesystem::path& path, InvalidText invalid);
  /// Reads a stream that stays open; `name` stands for it in errors.
  LineReader(std::FILE* stream, std::string name, InvalidText invalid);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  /// The next line without its line feed, valid until the next call; false at the end. A last line needs no
  /// line feed. UserError names the file, the line and the byte where a line is too long or not UTF-8;
  /// Failure where the device failed.
  bool next(std::string_view& line);

  /// Lines and bytes read so far.
  int64_t lines() const { return lines_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::FILE* stream_;
  bool owned_;
  std::string name_;
  InvalidText invalid_;
  std::string buffer_, replaced_;
  size_t begin_ = 0;
  int64_t lines_ = 0, bytes_ = 0;
  bool ended_ = false;
};

}  // namespace taper
