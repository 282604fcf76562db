#include "runtime/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "runtime/error.h"
#include "runtime/file.h"
#include "runtime/manifest.h"

namespace taper {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWeights = "weights.safetensors";
constexpr const char* kState = "state.safetensors";
constexpr const char* kManifest = "manifest.json";
/// Metadata is small; anything larger is not a manifest.
constexpr int64_t kMaxManifest = 64 << 20;

/// A folder that is being written, or waits to be removed.
constexpr std::string_view kTemporary = ".tmp-";
/// A whole checkpoint that is being replaced; it counts as long as its successor is not in place.
constexpr std::string_view kReplaced = ".old-";

std::string step_name(int64_t sequence) { return fmt::format("step-{:08}", sequence); }

/// The sequence in "step-<sequence>", or nothing for any other name.
std::optional<int64_t> sequence_of(std::string_view name) {
  if (!name.starts_with("step-")) return {};
  int64_t sequence = -1;
  std::from_chars(name.data() + 5, name.data() + name.size(), sequence);
  return sequence >= 0 && step_name(sequence) == name ? std::optional(sequence) : std::nullopt;
}

std::string best_name(const std::string& network) {
  TAPER_CHECK(!network.empty() && network.find('/') == std::string::npos, "'{}' is no network's name",
              network);
  return "best-" + network;
}

/// Nothing if the folder is not there.
std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    names.push_back(entry->path().filename().string());
  if (error && error != std::errc::no_such_file_or_directory)
    throw UserError("cannot list the checkpoints in {}: {}.", folder.string(), error.message());
  return names;
}

/// Removal may fail for a while (a network file system keeps files that somebody reads); the next save tries
/// again, because the name says that the folder is to go.
void remove_folder(const fs::path& folder) {
  std::error_code ignored;
  fs::remove_all(folder, ignored);
}

SafetensorsFile read_checked(const fs::path& folder, const Manifest& manifest, const char* name) {
  auto record = manifest.files.find(name);
  if (record == manifest.files.end()) throw UserError("{} does not list {}.", kManifest, name);
  std::vector<std::byte> content = read_file(folder / name);
  std::span<const std::byte> piece = content;
  FileRecord found = record_of(Pieces(&piece, 1));
  if (found.size != record->second.size)
    throw UserError("{} has {} bytes, where {} were saved.", name, found.size, record->second.size);
  if (found.checksum != record->second.checksum)
    throw UserError("{} was altered: its checksum does not match.", name);
  return SafetensorsFile::parse(std::move(content), (folder / name).string());
}

/// `name` is the checkpoint's, also while the folder still has that of a replaced one.
Checkpoint read_checkpoint(const fs::path& folder, const std::string& name) {
  try {
    std::vector<std::byte> text = read_file(folder / kManifest, kMaxManifest);
    Manifest manifest = decode_manifest({reinterpret_cast<const char*>(text.data()), text.size()}, kManifest);
    SafetensorsFile weights = read_checked(folder, manifest, kWeights);
    SafetensorsFile state = read_checked(folder, manifest, kState);
    return {name,
            manifest.sequence,
            manifest.score,
            std::move(manifest.identity),
            std::move(manifest.metadata),
            std::move(weights),
            std::move(state)};
  } catch (const UserError& error) {
    throw UserError("the checkpoint {} is refused: {}", folder.string(), error.what());
  }
}

/// Where the checkpoint `name` lies: under its name, or, if its replacement was interrupted, still under the
/// old.
fs::path locate(const fs::path& folder, const std::string& name) {
  fs::path replaced = folder / fmt::format("{}{}", kReplaced, name);
  return !fs::exists(folder / name) && fs::exists(replaced) ? replaced : folder / name;
}

Checkpoint load_matching(const fs::path& folder, const std::string& name, std::string_view identity) {
  fs::path place = locate(folder, name);
  Checkpoint checkpoint = read_checkpoint(place, name);
  if (checkpoint.identity != identity) {
    throw UserError(
        "the checkpoint {} is refused: it belongs to another model or configuration ('{}', where '{}' is "
        "needed). "
        "Use the configuration that it was made with, or another output folder.",
        place.string(), checkpoint.identity, identity);
  }
  if (auto sequence = sequence_of(name); sequence && checkpoint.sequence != *sequence) {
    throw UserError("the checkpoint {} is refused: it was saved as {}.", place.string(),
                    step_name(checkpoint.sequence));
  }
  return checkpoint;
}

}  // namespace

Checkpoint load_checkpoint(const fs::path& folder) {
  // "x/" names the same folder as "x".
  fs::path place = folder.has_filename() ? folder : folder.parent_path();
  fs::path parent = place.has_parent_path() ? place.parent_path() : ".";
  FolderLock lock(parent, FolderLock::Kind::shared);
  std::string name = place.filename().string();
  return read_checkpoint(locate(parent, name), name);
}

CheckpointStore::CheckpointStore(fs::path folder, int64_t keep_last)
    : folder_(std::move(folder)), keep_last_(keep_last) {
  TAPER_CHECK(keep_last >= 1, "keep_last is {}", keep_last);
}

fs::path CheckpointStore::save(int64_t sequence, const CheckpointContent& content) const {
  return put(step_name(sequence), sequence, {}, content);
}

fs::path CheckpointStore::save_best(const std::string& network, double score, int64_t sequence,
                                    const CheckpointContent& content) const {
  return put(best_name(network), sequence, score, content);
}

fs::path CheckpointStore::put(const std::string& name, int64_t sequence, std::optional<double> score,
                              const CheckpointContent& content) const {
  SafetensorsImage weights(content.weights), state(content.state);
  Manifest manifest{content.identity,
                    sequence,
                    score,
                    content.metadata,
                    {{kWeights, record_of(weights.pieces)}, {kState, record_of(state.pieces)}}};
  std::string text = encode_manifest(manifest);
  std::span<const std::byte> manifest_piece = bytes_of(text);

  std::error_code error;
  if (fs::create_directories(folder_, error))
    sync_folder(folder_.has_parent_path() ? folder_.parent_path() : ".");
  if (error) {
    throw UserError("cannot make the folder {}: {}. Choose another output folder.", folder_.string(),
                    error.message());
  }
  FolderLock lock(folder_, FolderLock::Kind::exclusive);
  tidy();
  fs::path final = folder_ / name;
  fs::path temporary = folder_ / fmt::format("{}{}", kTemporary, name);
  fs::path replaced = folder_ / fmt::format("{}{}", kReplaced, name);
  try {
    fs::create_directory(temporary, error);
    if (error) {
      throw Failure("cannot make the folder {}: {}. The earlier checkpoints are untouched.",
                    temporary.string(), error.message());
    }
    write_new_file(temporary / kWeights, final / kWeights, weights.pieces);
    write_new_file(temporary / kState, final / kState, state.pieces);
    write_new_file(temporary / kManifest, final / kManifest, Pieces(&manifest_piece, 1));
    sync_folder(temporary);
    if (fs::exists(final)) rename_path(final, replaced);
    rename_path(temporary, final);
    sync_folder(folder_);
  } catch (const Error&) {
    tidy();
    throw;
  }
  remove_folder(replaced);
  if (sequence_of(name)) prune(sequence);
  return final;
}

void CheckpointStore::tidy() const {
  for (const std::string& name : names_in(folder_)) {
    if (name.starts_with(kTemporary)) remove_folder(folder_ / name);
    if (!name.starts_with(kReplaced)) continue;
    fs::path successor = folder_ / name.substr(kReplaced.size());
    if (fs::exists(successor)) {
      remove_folder(folder_ / name);
    } else {
      rename_path(folder_ / name, successor);
    }
  }
}

void CheckpointStore::prune(int64_t newest) const {
  std::vector<int64_t> older;
  for (const std::string& name : names_in(folder_)) {
    auto sequence = sequence_of(name);
    if (!sequence) continue;
    if (*sequence <= newest) {
      older.push_back(*sequence);
    } else {
      remove_folder(folder_ / ("refused-" + name));
      rename_path(folder_ / name, folder_ / ("refused-" + name));
    }
  }
  std::sort(older.rbegin(), older.rend());
  for (size_t i = static_cast<size_t>(keep_last_); i < older.size(); ++i) {
    // Renamed first, so that no half-removed checkpoint ever has a checkpoint's name.
    std::string name = step_name(older[i]);
    fs::path temporary = folder_ / fmt::format("{}{}", kTemporary, name);
    rename_path(folder_ / name, temporary);
    remove_folder(temporary);
  }
}

std::optional<Checkpoint> CheckpointStore::load_latest(std::string_view identity, const Warn& warn) const {
  FolderLock lock(folder_, FolderLock::Kind::shared);
  std::vector<int64_t> sequences;
  for (std::string_view name : names_in(folder_)) {
    if (name.starts_with(kReplaced)) name.remove_prefix(kReplaced.size());
    if (auto sequence = sequence_of(name)) sequences.push_back(*sequence);
  }
  std::sort(sequences.rbegin(), sequences.rend());
  sequences.erase(std::unique(sequences.begin(), sequences.end()), sequences.end());
  for (int64_t sequence : sequences) {
    try {
      return load_matching(folder_, step_name(sequence), identity);
    } catch (const Error& error) {
      warn(error.what());
    }
  }
  warn(fmt::format("there is no usable checkpoint in {} ({} refused).", folder_.string(), sequences.size()));
  return {};
}

std::optional<Checkpoint> CheckpointStore::load_best(const std::string& network, std::string_view identity,
                                                     const Warn& warn) const {
  FolderLock lock(folder_, FolderLock::Kind::shared);
  try {
    return load_matching(folder_, best_name(network), identity);
  } catch (const Error& error) {
    warn(error.what());
  }
  return {};
}

}  // namespace taper
