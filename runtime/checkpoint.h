#pragma once
// Checkpoints: a folder per checkpoint with weights.safetensors, state.safetensors and manifest.json, which
// holds sizes and checksums. It is written under a temporary name, flushed to the device and renamed, so that
// after kill -9 or a power cut at any instant the store holds whole checkpoints only, the previous one among
// them.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/safetensors.h"

namespace taper {

/// What is saved. The tensors' bytes are views that must live until the call returns.
struct CheckpointContent {
  /// A hash of everything that must agree for a resume (model, configuration).
  std::string identity;
  /// Whatever is small and not a tensor; UTF-8.
  std::map<std::string, std::string> metadata;
  /// Parameters and buffers, by the names that other programs know.
  std::vector<TensorBytes> weights;
  /// Everything else that a bit-exact resume needs.
  std::vector<TensorBytes> state;
};

/// A checkpoint in memory; it does not depend on the files any more.
struct Checkpoint {
  std::string name;  ///< "step-00001234" or "best-<network>"
  int64_t sequence = 0;
  std::optional<double> score;  ///< of a best checkpoint
  std::string identity;
  std::map<std::string, std::string> metadata;
  SafetensorsFile weights;
  SafetensorsFile state;
};

/// Reads the checkpoint in `folder`, whoever it belongs to. UserError names the folder and what is wrong: not
/// there, incomplete, truncated, altered, or of a later format.
Checkpoint load_checkpoint(const std::filesystem::path& folder);

/// The checkpoints of one run. Processes that save, and others that load meanwhile, wait for each other.
class CheckpointStore {
 public:
  using Warn = std::function<void(const std::string& sentence)>;

  /// `folder` is made by the first save; `keep_last` (at least 1) is how many step checkpoints remain.
  CheckpointStore(std::filesystem::path folder, int64_t keep_last);

  /// Saves as "step-<sequence>" and returns its folder. `sequence` (from 0) must exceed that of the
  /// checkpoint that the run resumed from. Once the new one is in place, older ones beyond `keep_last` are
  /// removed; newer ones, which load_latest must have refused, are set aside as "refused-step-<sequence>".
  /// Failure on a full disk, UserError where the folder cannot be written: the earlier checkpoints are
  /// untouched, and nothing half-written stays behind.
  std::filesystem::path save(int64_t sequence, const CheckpointContent& content) const;

  /// Replaces "best-<network>" at once; errors as save. `score` must be finite. `network` is a plain name.
  std::filesystem::path save_best(const std::string& network, double score, int64_t sequence,
                                  const CheckpointContent& content) const;

  /// The newest step checkpoint that is whole and has this identity. Every newer one that is not is named to
  /// `warn`, with what is wrong; so is the fact that none is usable.
  std::optional<Checkpoint> load_latest(std::string_view identity, const Warn& warn) const;

  /// "best-<network>", if it is there, whole and of this identity; otherwise `warn` says what is wrong.
  std::optional<Checkpoint> load_best(const std::string& network, std::string_view identity,
                                      const Warn& warn) const;

 private:
  std::filesystem::path put(const std::string& name, int64_t sequence, std::optional<double> score,
                            const CheckpointContent& content) const;
  void tidy() const;
  void prune(int64_t newest) const;

  std::filesystem::path folder_;
  int64_t keep_last_;
};

}  // namespace taper
