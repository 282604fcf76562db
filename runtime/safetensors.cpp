#include "runtime/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "runtime/error.h"
#include "runtime/file.h"

namespace taper {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are stored as they lie in memory");

using Json = nlohmann::json;

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kMaxHeader = 100'000'000;  // the Python package's limit
constexpr const char* kMetadata = "__metadata__";

struct FormatDType {
  DType dtype;
  const char* name;
};
/// In the order in which the Python package sorts tensors.
constexpr FormatDType kDTypes[] = {{DType::i64, "I64"}, {DType::f64, "F64"},   {DType::f32, "F32"},
                                   {DType::i32, "I32"}, {DType::bf16, "BF16"}, {DType::u8, "U8"}};

size_t rank_of(DType dtype) {
  return static_cast<size_t>(std::find_if(std::begin(kDTypes), std::end(kDTypes),
                                          [&](const FormatDType& known) { return known.dtype == dtype; }) -
                             std::begin(kDTypes));
}

/// Bytes of a tensor, or nothing if they, or the product of its extents other than 0, overflow int64_t
/// or an extent is negative.
std::optional<int64_t> size_in_bytes(DType dtype, const std::vector<int64_t>& shape) {
  int64_t size = size_of(dtype);
  bool empty = false;
  for (int64_t extent : shape) {
    if (extent == 0) {
      empty = true;
    } else if (extent < 0 || __builtin_mul_overflow(size, extent, &size)) {
      return {};
    }
  }
  return empty ? 0 : size;
}

/// A name from a file as it may be shown: without control characters, not endless.
std::string printable(std::string_view text) {
  constexpr size_t kMost = 100;
  std::string shown(text.substr(0, kMost));
  for (char& c : shown)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  return text.size() > kMost ? shown + "..." : shown;
}

struct Entry {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;
};

/// Reads the header as the parser meets it, so that whatever does not belong is refused before it takes
/// memory:
/// {"name": {"dtype": string, "shape": [n, ...], "data_offsets": [n, n]}, "__metadata__": {"key": "value"}}.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  explicit HeaderReader(const std::string& file) : file_(file) {}

  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;

  bool start_object(size_t) override {
    if (depth_ == 0 || (depth_ == 1 && !array_)) return ++depth_ != 0;
    refuse("an object");
  }
  bool end_object() override {
    if (depth_-- == 2 && !in_metadata_) finish_entry();
    return true;
  }
  bool start_array(size_t) override {
    if (depth_ == 2 && !in_metadata_ && !array_ && (key_ == "shape" || key_ == "data_offsets"))
      return array_ = true;
    refuse("a list");
  }
  bool end_array() override {
    array_ = false;
    return true;
  }
  bool key(std::string& key) override {
    if (depth_ == 1) {
      in_metadata_ = key == kMetadata;
      if (!names_.insert(key).second)
        throw UserError("{}: the name '{}' is there twice.", file_, printable(key));
      if (!in_metadata_) entries.emplace_back().name = key;
      offsets_.clear();
      fields_.clear();
    } else if (in_metadata_) {
      if (metadata.contains(key))
        throw UserError("{}: the key '{}' of {} is there twice.", file_, printable(key), kMetadata);
    } else if (key != "dtype" && key != "shape" && key != "data_offsets") {
      throw UserError("{}: the unknown key '{}'; known are dtype, shape and data_offsets.", where(),
                      printable(key));
    } else if (!fields_.insert(key).second) {
      throw UserError("{}: the key '{}' is there twice.", where(), printable(key));
    }
    key_ = key;
    return true;
  }
  bool string(std::string& value) override {
    if (depth_ == 2 && in_metadata_) {
      metadata.emplace(key_, value);
    } else if (depth_ == 2 && key_ == "dtype") {
      auto* known = std::find_if(std::begin(kDTypes), std::end(kDTypes),
                                 [&](const FormatDType& candidate) { return candidate.name == value; });
      if (known == std::end(kDTypes)) {
        throw UserError("{}: dtype '{}' is not one that Taper reads (F64, F32, BF16, I64, I32, U8).", where(),
                        printable(value));
      }
      entries.back().dtype = known->dtype;
    } else {
      refuse("a string");
    }
    return true;
  }
  bool number_unsigned(uint64_t value) override {
    if (!array_) refuse("a number");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      throw UserError("{}: {} in {} is too large.", where(), value, key_);
    if (key_ == "data_offsets" && offsets_.size() == 2)
      throw UserError("{}: data_offsets has more than two numbers.", where());
    (key_ == "shape" ? entries.back().shape : offsets_).push_back(static_cast<int64_t>(value));
    return true;
  }
  bool number_integer(int64_t) override { refuse("a negative number"); }
  bool number_float(double, const std::string&) override { refuse("a number that is not a whole one"); }
  bool boolean(bool) override { refuse("true or false"); }
  bool null() override { refuse("null"); }
  bool binary(Json::binary_t&) override { refuse("binary data"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    // The parser counts the header's bytes from 1.
    throw UserError("{}: the header is not valid JSON, at byte {} of the file.", file_,
                    static_cast<int64_t>(position) - 1 + kLengthBytes);
  }

 private:
  std::string where() const {
    return in_metadata_ ? fmt::format("{}: {}", file_, kMetadata)
                        : fmt::format("{}: tensor '{}'", file_, printable(entries.back().name));
  }
  [[noreturn]] void refuse(const char* found) const {
    if (depth_ == 0) throw UserError("{}: the header is {}, where an object is needed.", file_, found);
    if (depth_ == 1) throw UserError("{} is {}, where an object is needed.", where(), found);
    const char* needed = in_metadata_ || key_ == "dtype" ? "a string"
                         : array_                        ? "a whole number from 0"
                                                         : "a list of whole numbers from 0";
    throw UserError("{}: {} holds {}, where {} is needed.", where(), printable(key_), found, needed);
  }
  void finish_entry() {
    for (const char* field : {"dtype", "shape", "data_offsets"})
      if (!fields_.contains(field)) throw UserError("{}: {} is missing.", where(), field);
    if (offsets_.size() != 2) throw UserError("{}: data_offsets must be two numbers.", where());
    Entry& entry = entries.back();
    entry.begin = offsets_[0];
    entry.end = offsets_[1];
    auto size = size_in_bytes(entry.dtype, entry.shape);
    if (!size) throw UserError("{}: the shape is too large for 64-bit sizes.", where());
    if (entry.end < entry.begin || entry.end - entry.begin != *size) {
      throw UserError("{}: data_offsets [{}, {}] do not match the {} bytes that dtype and shape need.",
                      where(), entry.begin, entry.end, *size);
    }
  }

  const std::string& file_;
  int depth_ = 0;
  bool array_ = false, in_metadata_ = false;
  std::string key_;
  std::set<std::string> names_, fields_;
  std::vector<int64_t> offsets_;
};

std::string quoted(const std::string& text) {
  try {
    return Json(text).dump();
  } catch (const Json::exception&) {
    throw Failure("'{}' cannot be stored in a safetensors file: it is not UTF-8.", printable(text));
  }
}

}  // namespace

SafetensorsImage::SafetensorsImage(std::vector<TensorBytes> tensors,
                                   const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorBytes& a, const TensorBytes& b) {
    return std::tuple(rank_of(a.dtype), std::string_view(a.name)) <
           std::tuple(rank_of(b.dtype), std::string_view(b.name));
  });
  std::string json = "{";
  if (!metadata.empty()) {
    std::string separator = fmt::format("\"{}\":{{", kMetadata);
    for (const auto& [key, value] : metadata)
      json += std::exchange(separator, ",") + quoted(key) + ":" + quoted(value);
    json += "}";
  }
  std::set<std::string_view> names;
  int64_t offset = 0;
  for (const TensorBytes& tensor : tensors) {
    TAPER_CHECK(tensor.name != kMetadata, "no tensor may be called {}", kMetadata);
    TAPER_CHECK(names.insert(tensor.name).second, "tensor '{}' is there twice", tensor.name);
    auto size = size_in_bytes(tensor.dtype, tensor.shape);
    int64_t length = static_cast<int64_t>(tensor.bytes.size());
    TAPER_CHECK(size && *size == length, "tensor '{}' has {} bytes, which do not match its shape [{}] of {}",
                tensor.name, length, fmt::join(tensor.shape, ","), taper::name(tensor.dtype));
    json += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                        json.size() > 1 ? "," : "", quoted(tensor.name), kDTypes[rank_of(tensor.dtype)].name,
                        fmt::join(tensor.shape, ","), offset, offset + length);
    offset += length;
  }
  json += "}";
  json.append((8 - json.size() % 8) % 8, ' ');
  TAPER_CHECK(static_cast<int64_t>(json.size()) <= kMaxHeader, "{} tensors need a header of {} bytes",
              tensors.size(), json.size());
  uint64_t length = json.size();
  header.assign(reinterpret_cast<const char*>(&length), sizeof length);
  header += json;
  pieces.push_back(bytes_of(header));
  for (const TensorBytes& tensor : tensors) pieces.push_back(tensor.bytes);
}

void write_safetensors(const std::filesystem::path& path, std::vector<TensorBytes> tensors,
                       const std::map<std::string, std::string>& metadata) {
  SafetensorsImage image(std::move(tensors), metadata);
  write_file_atomically(path, image.pieces);
}

SafetensorsFile SafetensorsFile::read(const std::filesystem::path& path) {
  return parse(read_file(path), path.string());
}

SafetensorsFile SafetensorsFile::parse(std::vector<std::byte> content, const std::string& shown) {
  int64_t size = static_cast<int64_t>(content.size());
  if (size < kLengthBytes) {
    throw UserError("{} is not a safetensors file: it has {} bytes, fewer than the 8 of a header's length.",
                    shown, size);
  }
  uint64_t length = 0;
  std::memcpy(&length, content.data(), sizeof length);
  if (length > static_cast<uint64_t>(kMaxHeader)) {
    throw UserError(
        "{} is not a safetensors file: it claims a header of {} bytes, and at most {} are allowed.", shown,
        length, kMaxHeader);
  }
  int64_t data_start = kLengthBytes + static_cast<int64_t>(length);
  if (data_start > size) {
    throw UserError(
        "{} is truncated: its header needs {} bytes, and the file has {}. Copy or download it again.", shown,
        data_start, size);
  }
  const char* json = reinterpret_cast<const char*>(content.data()) + kLengthBytes;
  // The parser would skip a byte order mark in front, and takes a NUL for the end.
  if (length == 0 || *json != '{')
    throw UserError("{} is not a safetensors file: its header does not begin with '{{'.", shown);
  if (const void* nul = std::memchr(json, 0, length)) {
    throw UserError("{}: the header is not valid JSON, at byte {} of the file.", shown,
                    static_cast<const char*>(nul) - json + kLengthBytes);
  }
  HeaderReader reader(shown);
  Json::sax_parse(json, json + length, &reader);

  // By name where ranges are equal (empty tensors), so that the order does not depend on the header's.
  std::sort(reader.entries.begin(), reader.entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  SafetensorsFile file;
  int64_t covered = 0, available = size - data_start;
  for (Entry& entry : reader.entries) {
    if (entry.begin != covered) {
      throw UserError("{}: tensor '{}' begins at byte {} of the data, where {} was expected: the data {}.",
                      shown, printable(entry.name), entry.begin, covered,
                      entry.begin > covered ? "has a hole" : "overlaps");
    }
    if (entry.end > available) {
      throw UserError(
          "{} is truncated: tensor '{}' ends at byte {} of the data, and the file has {}. Copy or "
          "download it again.",
          shown, printable(entry.name), entry.end, available);
    }
    covered = entry.end;
    file.tensors_.push_back({std::move(entry.name), entry.dtype, std::move(entry.shape),
                             std::span(content).subspan(static_cast<size_t>(data_start + entry.begin),
                                                        static_cast<size_t>(entry.end - entry.begin))});
  }
  if (covered != available) {
    throw UserError("{}: {} bytes follow the last tensor. Is it one whole safetensors file?", shown,
                    available - covered);
  }
  for (size_t i = 0; i < file.tensors_.size(); ++i) file.index_.emplace(file.tensors_[i].name, i);
  file.shown_ = shown;
  file.content_ = std::move(content);
  file.metadata_ = std::move(reader.metadata);
  return file;
}

const TensorBytes* SafetensorsFile::find(std::string_view name) const {
  auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const TensorBytes& SafetensorsFile::tensor(std::string_view name) const {
  if (const TensorBytes* found = find(name)) return *found;
  throw UserError("{} has no tensor '{}' (it has {} others). Is it the file of another model?", shown_, name,
                  tensors_.size());
}

}  // namespace taper
