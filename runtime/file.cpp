#include "runtime/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "runtime/error.h"

namespace taper {
namespace {

namespace fs = std::filesystem;

/// strerror, which is not safe with threads, in its safe form.
std::string describe(int error) { return std::generic_category().message(error); }

/// Repeats a system call that a signal interrupted (SIGTERM arrives while a checkpoint is being saved).
template <typename Call>
auto uninterrupted(Call call) {
  for (;;) {
    auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

/// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(Descriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  operator int() const { return value_; }
  int release() { return std::exchange(value_, -1); }

 private:
  int value_;
};

Descriptor open_file(const fs::path& path, int flags) {
  return Descriptor(uninterrupted([&] { return ::open(path.c_str(), flags | O_CLOEXEC, 0666); }));
}

/// Removes what was being written, unless it was completed.
class RemoveUnlessDone {
 public:
  explicit RemoveUnlessDone(const fs::path& path) : path_(path) {}
  ~RemoveUnlessDone() {
    if (!done_) ::unlink(path_.c_str());
  }
  RemoveUnlessDone(const RemoveUnlessDone&) = delete;
  RemoveUnlessDone& operator=(const RemoveUnlessDone&) = delete;
  void done() { done_ = true; }

 private:
  const fs::path& path_;
  bool done_ = false;
};

fs::path folder_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : "."; }

int64_t total_size(Pieces pieces) {
  int64_t total = 0;
  for (auto piece : pieces) total += static_cast<int64_t>(piece.size());
  return total;
}

[[noreturn]] void throw_write_error(const fs::path& path, int error, int64_t size) {
  std::string folder = folder_of(path).string();
  if (error == ENOSPC || error == EDQUOT) {
    throw Failure(
        "cannot write {}: {} ({} bytes are needed). What was there before is untouched. Free space on the "
        "file "
        "system that holds {}{}, then run again.",
        path.string(), describe(error), size, folder, error == EDQUOT ? ", or raise the quota" : "");
  }
  if (error == EFBIG) {
    throw Failure(
        "cannot write {}: {} ({} bytes are needed). What was there before is untouched. Raise the limit on "
        "file "
        "sizes (ulimit -f), or write to a file system that allows larger files, then run again.",
        path.string(), describe(error), size);
  }
  for (int mistake : {ENOENT, ENOTDIR, EISDIR, EACCES, EPERM, EROFS, ENAMETOOLONG}) {
    if (error == mistake) {
      throw UserError("cannot write {}: {}. Name a file in a folder that exists and may be written.",
                      path.string(), describe(error));
    }
  }
  throw Failure("cannot write {}: {}. What was there before is untouched.", path.string(), describe(error));
}

/// Writes and flushes all pieces; errors name `shown`, which the user knows, not the temporary name.
void write_pieces(const Descriptor& file, const fs::path& shown, Pieces pieces) {
  int64_t size = total_size(pieces);
  for (auto piece : pieces) {
    while (!piece.empty()) {
      ssize_t written = uninterrupted([&] { return ::write(file, piece.data(), piece.size()); });
      // A call that writes nothing and reports nothing would be repeated for ever.
      if (written <= 0) throw_write_error(shown, written < 0 ? errno : EIO, size);
      piece = piece.subspan(static_cast<size_t>(written));
    }
  }
  if (uninterrupted([&] { return ::fsync(file); }) != 0) throw_write_error(shown, errno, size);
}

/// Opens the partial file and locks it. Another writer may rename or remove the file between the two calls,
/// so the lock counts only if the name still leads to the locked file.
Descriptor open_partial(const fs::path& partial, const fs::path& shown, int64_t size) {
  for (;;) {
    Descriptor file = open_file(partial, O_WRONLY | O_CREAT | O_NOFOLLOW);
    if (file < 0) throw_write_error(shown, errno, size);
    bool locked = uninterrupted([&] { return ::flock(file, LOCK_EX); }) == 0;
    struct stat named {
    }, opened{};
    if (!locked || (::stat(partial.c_str(), &named) == 0 && ::fstat(file, &opened) == 0 &&
                    named.st_ino == opened.st_ino && named.st_dev == opened.st_dev))
      return file;
  }
}

}  // namespace

std::vector<std::byte> read_file(const fs::path& path, int64_t limit) {
  // O_NONBLOCK: a named pipe without a writer must be refused, not waited for.
  Descriptor file = open_file(path, O_RDONLY | O_NONBLOCK);
  struct stat status {};
  if (file < 0 || ::fstat(file, &status) != 0) {
    throw UserError("cannot read {}: {}. Check the path and its permissions.", path.string(),
                    describe(errno));
  }
  if (!S_ISREG(status.st_mode)) {
    throw UserError("cannot read {}: it is {}, where a file is needed.", path.string(),
                    S_ISDIR(status.st_mode) ? "a folder" : "a device, pipe or socket");
  }
  if (status.st_size > limit) {
    throw UserError("cannot read {}: it has {} bytes, and at most {} make sense here. Is it the right file?",
                    path.string(), status.st_size, limit);
  }
  std::vector<std::byte> bytes(static_cast<size_t>(status.st_size));
  size_t done = 0;
  while (done < bytes.size()) {
    ssize_t got = uninterrupted([&] { return ::read(file, bytes.data() + done, bytes.size() - done); });
    if (got < 0) throw Failure("cannot read {} at byte {}: {}.", path.string(), done, describe(errno));
    if (got == 0) {
      throw Failure("{} became shorter while it was read ({} of {} bytes were left).", path.string(), done,
                    bytes.size());
    }
    done += static_cast<size_t>(got);
  }
  return bytes;
}

void write_file_atomically(const fs::path& path, Pieces pieces) {
  int64_t size = total_size(pieces);
  std::error_code ignored;
  fs::path target = fs::exists(path, ignored) ? fs::canonical(path, ignored) : path;
  if (ignored) target = path;
  fs::file_status status = fs::status(target, ignored);
  // Renaming over a device such as /dev/null would replace the device.
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    throw UserError("cannot write {}: it exists and is not a regular file. Choose another name.",
                    path.string());
  }
  if (!target.has_filename())
    throw UserError("cannot write {}: it names a folder, where a file is needed.", path.string());
  fs::path partial = folder_of(target) / fmt::format(".{}.partial", target.filename().string());
  Descriptor file = open_partial(partial, path, size);
  RemoveUnlessDone guard(partial);
  if (uninterrupted([&] { return ::ftruncate(file, 0); }) != 0) throw_write_error(path, errno, size);
  write_pieces(file, path, pieces);
  if (::rename(partial.c_str(), target.c_str()) != 0) throw_write_error(path, errno, size);
  guard.done();
  sync_folder(folder_of(target));
}

void write_file_atomically(const fs::path& path, std::string_view text) {
  std::span<const std::byte> piece = bytes_of(text);
  write_file_atomically(path, Pieces(&piece, 1));
}

void write_new_file(const fs::path& path, const fs::path& shown, Pieces pieces) {
  Descriptor file = open_file(path, O_WRONLY | O_CREAT | O_EXCL);
  if (file < 0) throw_write_error(shown, errno, total_size(pieces));
  RemoveUnlessDone guard(path);
  write_pieces(file, shown, pieces);
  guard.done();
}

void sync_folder(const fs::path& folder) {
  Descriptor file = open_file(folder, O_RDONLY | O_DIRECTORY);
  // Some network file systems cannot flush a folder and say EINVAL; they keep names in order themselves.
  if (file < 0 || (uninterrupted([&] { return ::fsync(file); }) != 0 && errno != EINVAL))
    throw Failure("cannot flush the folder {} to the device: {}.", folder.string(), describe(errno));
}

void rename_path(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0)
    throw Failure("cannot rename {} to {}: {}.", from.string(), to.string(), describe(errno));
}

FolderLock::FolderLock(const fs::path& folder, Kind kind) {
  fs::path path = folder / ".lock";
  bool exclusive = kind == Kind::exclusive;
  // Network file systems give an exclusive lock only on a file open for writing. A reader creates nothing:
  // where no writer ever was, there is nothing to wait for.
  Descriptor file = open_file(path, exclusive ? O_RDWR | O_CREAT : O_RDONLY);
  if (file < 0 && exclusive) throw_write_error(path, errno, 0);
  if (file >= 0 && uninterrupted([&] { return ::flock(file, exclusive ? LOCK_EX : LOCK_SH); }) == 0)
    descriptor_ = file.release();
}

FolderLock::~FolderLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace taper
