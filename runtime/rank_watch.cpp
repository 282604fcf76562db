#include "runtime/rank_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace taper {

namespace {

std::string ending(const std::string& place) {
  return fmt::format(
      "The run was {}; all ranks end. The last checkpoint is whole, and --resume goes on from it",
      place.empty() ? "starting" : "in " + place);
}

std::string silent(const RankStatus& rank, const std::string& place, double seconds) {
  return fmt::format(
      "{} has not been heard of for {:.0f} s: it was stopped, or its machine or network is gone. {}",
      rank.name, std::floor(seconds), ending(place));
}

}  // namespace

double clock_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string lost_rank(std::span<const RankStatus> ranks, const std::string& place, double now,
                      double timeout) {
  for (const RankStatus& rank : ranks)
    if (now - rank.heard > timeout) return silent(rank, place, now - rank.heard);
  for (const RankStatus& first : ranks) {
    if (first.waits_for == -1 || now - first.waits_since <= timeout) continue;
    const RankStatus* last = &first;
    for (size_t hops = 0; last->waits_for != -1 && hops < ranks.size(); ++hops) {
      if (last->waits_for != kEveryRank) {
        last = &ranks[static_cast<size_t>(last->waits_for)];
        continue;
      }
      const auto absent =
          std::ranges::find_if(ranks, [](const RankStatus& rank) { return rank.waits_for != kEveryRank; });
      if (absent == ranks.end()) break;
      last = &*absent;
    }
    // A healthy rank is heard of many times within the timeout.
    if (now - last->heard > timeout / 2) return silent(*last, place, now - last->heard);
    return fmt::format(
        "{} has kept {} waiting for {:.0f} s: it runs, but does not get on; if it is only slow, raise "
        "rank_timeout. {}",
        last->name, first.name, std::floor(now - first.waits_since), ending(place));
  }
  return "";
}

std::string dead_rank(const RankStatus& rank, const std::string& place) {
  return fmt::format("{} has died: it was killed, or it crashed. {}", rank.name, ending(place));
}

}  // namespace taper
