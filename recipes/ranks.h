#pragma once
// What ranks have to agree on before they train together.

#include <optional>

#include "recipes/config.h"
#include "recipes/data.h"
#include "recipes/models.h"
#include "runtime/checkpoint.h"
#include "runtime/communicator.h"

namespace taper {

/// UserError, the same on every rank, unless the ranks can divide the configured shards.
void require_possible_ranks(const Communicator& ranks, const Configuration& configuration);

/// UserError, the same on every rank, that names the first rank that differs from rank 0 and in what: the
/// program itself (a hash of its file), the instruction set and libraries, the configuration, the data
/// (sizes, classes, and a sample of both splits).
void require_equal_ranks(const Configuration& configuration, const Data& data, Engine& engine);

/// Rank 0's checkpoint, or that it has none, on every rank.
std::optional<Checkpoint> share_checkpoint(Communicator& ranks, std::optional<Checkpoint> own);

}  // namespace taper
