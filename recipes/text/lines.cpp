#include "recipes/text/lines.h"

#include <cerrno>
#include <cstring>

#include "recipes/text/unicode.h"
#include "runtime/error.h"

namespace taper {

LineReader::LineReader(const std::filesystem::path& path, InvalidText invalid)
    : LineReader(std::fopen(path.c_str(), "rb"), path.string(), invalid) {
  if (stream_ == nullptr) throw UserError("{} cannot be read: {}", name_, std::strerror(errno));
  owned_ = true;
}

LineReader::LineReader(std::FILE* stream, std::string name, InvalidText invalid)
    : stream_(stream), owned_(false), name_(std::move(name)), invalid_(invalid) {}

LineReader::~LineReader() {
  if (owned_) std::fclose(stream_);
}

bool LineReader::next(std::string_view& line) {
  constexpr size_t kBlock = size_t{1} << 18;
  size_t searched = begin_, end = 0;
  while ((end = buffer_.find('\n', searched)) == std::string::npos && !ended_) {
    buffer_.erase(0, begin_);
    begin_ = 0;
    searched = buffer_.size();
    if (searched > kLongestLine) break;
    buffer_.resize(searched + kBlock);
    const size_t got = std::fread(buffer_.data() + searched, 1, kBlock, stream_);
    if (got < kBlock && std::ferror(stream_) != 0)
      throw Failure("{} could not be read after byte {}: {}", name_, bytes_, std::strerror(errno));
    buffer_.resize(searched + got);
    ended_ = got < kBlock;
  }
  const bool last = end == std::string::npos;
  if (last) end = buffer_.size();
  if (last && end == begin_) return false;
  if (end - begin_ > kLongestLine)
    throw UserError("{}: line {}, from byte {}, is longer than {} MiB; is it text? Break it into lines",
                    name_, lines_ + 1, bytes_, kLongestLine >> 20);
  line = std::string_view(buffer_).substr(begin_, end - begin_);
  if (const int64_t at = invalid_utf8(line); at >= 0) {
    if (invalid_ == InvalidText::refuse)
      throw UserError(
          "{}: line {} is not UTF-8 at byte {} of the input; convert it (iconv -f latin1 -t utf-8)", name_,
          lines_ + 1, bytes_ + at);
    replaced_ = replace_invalid_utf8(line);
    line = replaced_;
  }
  ++lines_;
  bytes_ += static_cast<int64_t>(end - begin_) + (last ? 0 : 1);
  begin_ = end + (last ? 0 : 1);
  return true;
}

}  // namespace taper
