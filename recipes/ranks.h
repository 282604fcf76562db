#pragma once
// What ranks have to agree on before they train together.

#include <optional>

#include "recipes/config.h"
#include "recipes/data.h"
#include "recipes/models.h"
#include "runtime/checkpoint.h"
#include "runtime/rank_group.h"

namespace taper {

/// UserError, the same on every rank, unless the ranks can divide the configured shards.
void require_possible_ranks(const Communicator& ranks, const Configuration& configuration);

/// UserError, the same on every rank, where a fast reduction is configured that these ranks have not.
void require_possible_reduction(const Configuration& configuration, Communicator& ranks);

/// Failure, the same on every rank, unless all of them have the same weights and statistics to the bit: a
/// library that sums may give each rank bits of its own.
void require_equal_weights(Models& models, Engine& engine);

/// UserError, the same on every rank, that names the first rank that differs from rank 0 and in what: the
/// program itself (a hash of its file), the instruction set and libraries, the configuration, the data
/// (sizes, classes, and a sample of both splits).
void require_equal_ranks(const Configuration& configuration, const Data& data, Engine& engine);

/// The ranks of a run cut into `count` groups of neighbours, all of a size, to compute different things.
struct RankGroups {
  /// `count` is a power of two, and no more than the ranks. All ranks make it together.
  RankGroups(Engine& engine, int64_t count);
  const int64_t count;
  RankGroup within;  ///< this rank's group
  RankGroup across;  ///< of each group the rank at this one's place, numbered as the groups are
  std::unique_ptr<Communicator> connected;  ///< this rank's group by way of its devices, where these have one
  Communicator& ranks;                      ///< this rank's group, to train with
};

/// Rank 0's checkpoint, or that it has none, on every rank.
std::optional<Checkpoint> share_checkpoint(Communicator& ranks, std::optional<Checkpoint> own);

}  // namespace taper
