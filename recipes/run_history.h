#pragma once
// What metrics.jsonl says, read back.

#include <filesystem>
#include <string>
#include <vector>

#include "recipes/run_log.h"

namespace taper {

struct RunHistory {
  std::filesystem::path directory;
  Configuration configuration;
  RunEvent run;                    ///< empty where the run ended before it was logged
  std::string version;             ///< of Taper
  std::string time;                ///< when the run began, ISO 8601, UTC
  std::vector<StageEvent> stages;  ///< in the order they began; `seconds` is 0 for one that did not end
  std::vector<TrainEvent> train;
  std::vector<EvaluateEvent> evaluate;
  std::vector<UnitEvent> units;
  std::vector<NetworkEvent> networks;  ///< the last event of each network, in order of appearance
  int64_t skipped = 0;  ///< files that could not be decoded, left out of training; of test images `evaluate`
                        ///< tells
};

/// Reads config.toml and metrics.jsonl of a run directory. A last line without its end, as kill -9 leaves it,
/// is ignored; a value that was not finite is NaN. UserError if it is no run directory, or a line is
/// malformed, naming it.
RunHistory read_history(const std::filesystem::path& directory);

}  // namespace taper
