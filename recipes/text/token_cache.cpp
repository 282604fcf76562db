#include "recipes/text/token_cache.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "recipes/progress.h"
#include "recipes/text/tokenizer.h"
#include "runtime/error.h"
#include "runtime/file.h"
#include "runtime/manifest.h"

namespace taper {

namespace fs = std::filesystem;

namespace {

constexpr char kMagic[8] = {'t', 'a', 'p', 'e', 'r', 't', 'k', '1'};

// The file: this, then files + 1 starts of i64, then the tokens of i32.
struct Header {
  char magic[8];
  int64_t files, tokens;
  char checksum[32];  // of what follows
};

std::string cache_name(const TextSource& source) {
  std::string inputs = fmt::format("{} {}\n", source.lowercase, source.invalid == InvalidText::replace);
  for (int64_t id = 0; id < source.vocabulary->size(); ++id)
    inputs += source.vocabulary->token(static_cast<int32_t>(id)) + "\n";
  for (const fs::path& path : source.files) {
    MappedFile text(path);
    if (text.bytes().empty()) throw UserError("{} is empty; leave it out", path.string());
    std::span<const std::byte> pieces[] = {text.bytes()};
    FileRecord record = record_of(pieces);
    inputs += fmt::format("{} {}\n", record.size, record.checksum);
  }
  std::span<const std::byte> pieces[] = {bytes_of(inputs)};
  return fmt::format("tokens-{}.bin", record_of(pieces).checksum);
}

// A file that gets its name when it is whole.
class Writer {
 public:
  explicit Writer(fs::path path)
      : path_(std::move(path)),
        partial_(path_.parent_path() / fmt::format(".{}.{}.partial", path_.filename().string(), getpid())),
        file_(std::fopen(partial_.c_str(), "wb")) {
    if (file_ == nullptr) throw UserError("{} cannot be written: {}", path_.string(), std::strerror(errno));
  }
  ~Writer() {
    if (file_ == nullptr) return;
    std::fclose(file_);
    std::error_code ignored;
    fs::remove(partial_, ignored);
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  template <typename T>
  void write(std::span<const T> values) {
    if (std::fwrite(values.data(), sizeof(T), values.size(), file_) != values.size()) fail();
  }
  void back_to(int64_t byte) {
    if (std::fseek(file_, byte, SEEK_SET) != 0) fail();
  }
  void flush() {
    if (std::fflush(file_) != 0) fail();
  }
  const fs::path& partial() const { return partial_; }
  void finish() {
    flush();
    if (fsync(fileno(file_)) != 0) fail();
    std::fclose(std::exchange(file_, nullptr));
    rename_path(partial_, path_);
    sync_folder(path_.parent_path());
  }

 private:
  [[noreturn]] void fail() const {
    throw Failure("{} cannot be written: {}; free space there, or name another data.cache", path_.string(),
                  std::strerror(errno));
  }
  fs::path path_, partial_;
  std::FILE* file_;
};

// Of one file: its documents, with [SEP] between them.
int64_t write_tokens(const fs::path& path, const TextSource& source, Tokenizer& tokenizer, Writer& writer,
                     Pulse& pulse) {
  LineReader reader(path, source.invalid);
  std::vector<Token> tokens;
  std::vector<int32_t> ids;
  int64_t count = 0;
  bool separate = false;
  for (std::string_view line; reader.next(line);) {
    tokens.clear();
    tokenizer.encode(line, tokens);
    if (tokens.empty()) {
      separate = count > 0;
      continue;
    }
    ids.clear();
    if (std::exchange(separate, false)) ids.push_back(source.vocabulary->sep);
    for (const Token& token : tokens) ids.push_back(token.id);
    writer.write<int32_t>(ids);
    count += std::ssize(ids);
    pulse.beat([&] {
      return fmt::format("tokenising {}: {:.0f} MB", path.string(),
                         1e-6 * static_cast<double>(reader.bytes()));
    });
  }
  if (count == 0) throw UserError("{} holds white space alone; leave it out", path.string());
  return count;
}

void make_cache_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error)
    throw UserError("{}: the folder cannot be made: {}; name another data.cache", folder.string(),
                    error.message());
}

void write_cache(const fs::path& path, const TextSource& source) {
  Writer writer(path);
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.files = std::ssize(source.files);
  std::vector<int64_t> starts(source.files.size() + 1);
  writer.write<Header>({&header, 1});
  writer.write<int64_t>(starts);
  Tokenizer tokenizer(source.vocabulary, source.lowercase);
  Pulse pulse;
  for (size_t i = 0; i < source.files.size(); ++i)
    starts[i + 1] = starts[i] + write_tokens(source.files[i], source, tokenizer, writer, pulse);
  header.tokens = starts.back();
  writer.back_to(sizeof header);
  writer.write<int64_t>(starts);
  writer.flush();
  {
    MappedFile written(writer.partial());
    std::span<const std::byte> pieces[] = {written.bytes().subspan(sizeof header)};
    std::memcpy(header.checksum, record_of(pieces).checksum.data(), sizeof header.checksum);
  }
  writer.back_to(0);
  writer.write<Header>({&header, 1});
  writer.finish();
}

// What is wrong with a cache of so many files; empty if nothing is.
std::string damage(std::span<const std::byte> bytes, int64_t files) {
  Header header{};
  if (bytes.size() < sizeof header) return "it is cut short";
  std::memcpy(&header, bytes.data(), sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) return "it is no cache of tokens";
  std::span<const std::byte> rest = bytes.subspan(sizeof header);
  const auto size = static_cast<int64_t>(rest.size());
  if (header.files != files || header.tokens <= 0 || header.tokens > size / 4 ||
      size != (files + 1) * 8 + header.tokens * 4)
    return "it is cut short";
  std::span<const std::byte> pieces[] = {rest};
  if (record_of(pieces).checksum != std::string_view(header.checksum, sizeof header.checksum))
    return "its checksum does not match";
  return "";
}

// The cache, if it is there and whole; or what is wrong with one that is there.
struct Found {
  std::optional<MappedFile> file = {};
  std::string damage = {};
};
Found find_cache(const fs::path& path, int64_t files) {
  Found found;
  if (!fs::exists(path)) return found;
  found.file.emplace(path);
  found.damage = damage(found.file->bytes(), files);
  if (!found.damage.empty()) found.file.reset();
  return found;
}

}  // namespace

std::vector<fs::path> text_files(const fs::path& path) {
  if (!fs::exists(path))
    throw UserError("{} is not there; data.path names a text file or a folder of .txt files", path.string());
  if (!fs::is_directory(path)) return {path};
  std::vector<fs::path> files;
  try {
    for (const auto& entry : fs::recursive_directory_iterator(path))
      if (entry.is_regular_file() && entry.path().extension() == ".txt") files.push_back(entry.path());
  } catch (const fs::filesystem_error& error) {
    throw UserError("{} cannot be read: {}", error.path1().string(), error.code().message());
  }
  if (files.empty()) throw UserError("{}: there is no .txt file in it", path.string());
  std::ranges::sort(files, {}, [](const fs::path& file) { return file.string(); });
  return files;
}

TokenCache::TokenCache(const TextSource& source, const fs::path& folder) : name_(cache_name(source)) {
  fs::path path = folder / name_;
  const auto files = std::ssize(source.files);
  if (Found ready = find_cache(path, files); ready.file) {
    mapped_.emplace(std::move(*ready.file));
  } else {
    make_cache_folder(folder);
    const FolderLock one_at_a_time(folder, FolderLock::Kind::exclusive);
    Found made = find_cache(path, files);  // by another process, meanwhile
    if (made.file) {
      mapped_.emplace(std::move(*made.file));
    } else {
      if (!made.damage.empty())
        fmt::print(stderr, "{}: {}; the text is tokenised anew\n", path.string(), made.damage);
      write_cache(path, source);
      mapped_.emplace(path);
    }
  }
  const std::byte* bytes = mapped_->bytes().data() + sizeof(Header);
  starts_ = {reinterpret_cast<const int64_t*>(bytes), source.files.size() + 1};
  tokens_ = {reinterpret_cast<const int32_t*>(bytes + (files + 1) * 8), static_cast<size_t>(starts_.back())};
}

}  // namespace taper
