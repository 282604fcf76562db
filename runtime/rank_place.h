#pragma once
// Which of several processes this one is, as whoever started them left it in the environment.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace taper {

/// One process of a run is a rank, 0 <= rank < ranks; local_rank counts those on its machine.
struct RankPlace {
  int64_t rank = 0, ranks = 1, local_rank = 0, local_ranks = 1;
  std::string starter = {};  ///< "Open MPI", "PMI", "Slurm" or "RANK and WORLD_SIZE"; empty: started alone
};

/// The value of an environment variable, if it is set.
using Environment = std::function<std::optional<std::string>(const std::string& name)>;
/// This process's.
Environment process_environment();

/// The first that is set of Open MPI's variables (OMPI_COMM_WORLD_RANK, ...), PMI's (PMI_RANK, ...), Slurm's
/// of a step (SLURM_PROCID, ...), and RANK with WORLD_SIZE, as torchrun sets them. UserError, naming the
/// variables, where one of a pair is missing, a value is no number or is impossible, or RANK and WORLD_SIZE
/// contradict MPI's.
RankPlace find_rank(const Environment& environment);

}  // namespace taper
