#include "runtime/rank_place.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "runtime/error.h"

namespace taper {

namespace {

struct Variables {
  const char *starter, *rank, *ranks, *local_rank, *local_ranks;
};
// A launcher that starts its own daemons through Slurm leaves Slurm's variables of the daemon to the ranks,
// so Slurm's come after MPI's and are not compared with them.
constexpr Variables kStarters[] = {
    {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
    {"Slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"},
};
constexpr Variables kPlain = {"RANK and WORLD_SIZE", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"};

std::optional<int64_t> number(const Environment& environment, const std::string& name) {
  std::optional<std::string> text = environment(name);
  if (!text) return std::nullopt;
  int64_t value = -1;
  const char* end = text->data() + text->size();
  auto [stop, error] = std::from_chars(text->data(), end, value);
  // Slurm writes 4(x2),3 for two machines with four tasks and one with three: what follows the number is
  // ignored.
  bool whole = stop == end || (name == "SLURM_STEP_TASKS_PER_NODE" && (*stop == '(' || *stop == ','));
  if (error != std::errc() || !whole || value < 0)
    throw UserError("the environment variable {} is \"{}\", expected a whole number from 0", name, *text);
  return value;
}

std::optional<RankPlace> read(const Environment& environment, const Variables& names) {
  auto rank = number(environment, names.rank), ranks = number(environment, names.ranks);
  // A batch script has SLURM_PROCID although it is no step.
  bool alone = names.starter == std::string("Slurm");
  if (!ranks && (!rank || alone)) return std::nullopt;
  if (!rank || !ranks)
    throw UserError("the environment has {} without {}; ranks need both (mpirun sets them)",
                    rank ? names.rank : names.ranks, rank ? names.ranks : names.rank);
  if (*rank >= *ranks)
    throw UserError("the environment has {}={} with {}={}; a rank is less than the number of ranks",
                    names.rank, *rank, names.ranks, *ranks);
  RankPlace place{.rank = *rank, .ranks = *ranks, .starter = names.starter};
  place.local_rank = number(environment, names.local_rank).value_or(0);
  place.local_ranks = std::max(number(environment, names.local_ranks).value_or(1), place.local_rank + 1);
  if (place.local_rank > place.rank || place.local_ranks > place.ranks)
    throw UserError("the environment has {}={} and {}={} with {}={} and {}={}, which cannot be",
                    names.local_rank, place.local_rank, names.local_ranks, place.local_ranks, names.rank,
                    *rank, names.ranks, *ranks);
  return place;
}

}  // namespace

Environment process_environment() {
  return [](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
}

RankPlace find_rank(const Environment& environment) {
  std::optional<RankPlace> plain = read(environment, kPlain);
  for (const Variables& names : kStarters) {
    std::optional<RankPlace> place = read(environment, names);
    if (!place) continue;
    if (plain && (plain->rank != place->rank || plain->ranks != place->ranks))
      throw UserError(
          "the environment says two things: rank {} of {} by {}, but rank {} of {} by RANK and WORLD_SIZE; "
          "unset "
          "those of them that are left over from another launcher",
          place->rank, place->ranks, place->starter, plain->rank, plain->ranks);
    return *place;
  }
  return plain.value_or(RankPlace{});
}

}  // namespace taper
