#pragma once
// The table of contents of a checkpoint: what was saved, and how to tell that it is all there and unaltered.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/file.h"

namespace taper {

/// Size in bytes and XXH3-128 of a file's content, as 32 hexadecimal digits.
struct FileRecord {
  int64_t size = 0;
  std::string checksum;
};

struct Manifest {
  std::string identity;         ///< of the model and configuration, as the caller defines it
  int64_t sequence = 0;         ///< from 0; a later checkpoint of a run has a larger one
  std::optional<double> score;  ///< of a best checkpoint; finite
  std::map<std::string, std::string> metadata;
  std::map<std::string, FileRecord> files;  ///< by name within the checkpoint's folder
};

/// The record of a file made of these pieces.
FileRecord record_of(Pieces pieces);

/// JSON with the format's version and a checksum of everything else in it; the same manifest gives the same
/// bytes. Failure: a string is not UTF-8, or the score is not finite.
std::string encode_manifest(const Manifest& manifest);

/// UserError, naming `shown`, unless `text` is exactly what encode_manifest writes.
Manifest decode_manifest(std::string_view text, const std::string& shown);

}  // namespace taper
