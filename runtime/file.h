#pragma once
// Files that are whole or not there: reading in one piece, and writing so that neither a full disk nor
// kill -9 nor a power cut leaves half a file under the final name.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace taper {

/// The bytes of a file as consecutive pieces in memory, so that large tensors are written without a copy.
using Pieces = std::span<const std::span<const std::byte>>;

/// The bytes of `text`, to be written or compared.
inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// The bytes of the regular file `path`, at an address aligned for every dtype.
/// UserError: not there, not readable, not a regular file, or larger than `limit` bytes. Failure: the device
/// failed, or the file changed its size meanwhile.
std::vector<std::byte> read_file(const std::filesystem::path& path, int64_t limit = INT64_MAX);

/// Replaces `path` by the pieces, all at once: they go to `.NAME.partial` beside it, are flushed to the
/// device, and take the final name by rename. On any error the old file is untouched and no partial file
/// stays behind; after kill -9 the next write reuses the partial file. Several processes may write the same
/// path: one of them wins, whole. A symbolic link is followed. UserError: the folder is not there or not
/// writable, or `path` is not a regular file. Failure: the disk is full, a quota or limit is reached, or the
/// device failed; the message names `path` and what to free.
void write_file_atomically(const std::filesystem::path& path, Pieces pieces);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

/// Writes a file that must not exist yet, and flushes it to the device: for files inside a folder that gets
/// its final name later, hence `shown`, the final name, for errors. Errors as write_file_atomically; the file
/// is removed on failure.
void write_new_file(const std::filesystem::path& path, const std::filesystem::path& shown, Pieces pieces);

/// Makes the names inside `folder` (files created, renamed, removed) survive a power cut.
void sync_folder(const std::filesystem::path& folder);

/// Renames a file or folder. Failure, naming both, if the system refuses.
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);

/// Holds an advisory lock (flock) on `folder`/.lock while it lives, waiting for it first; the system releases
/// it when the process ends, however it ends. On a file system without locks it holds
/// nothing; a shared lock also where nobody has ever locked exclusively.
class FolderLock {
 public:
  enum class Kind { shared, exclusive };
  FolderLock(const std::filesystem::path& folder, Kind kind);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace taper
