#include "autograd/collectives.h"

#include <cstring>

namespace taper {

namespace {

// What one task of an addition takes.
constexpr int64_t kRankChunk = int64_t{1} << 18;

int64_t middle(const Range& range) { return range.begin + (range.end - range.begin) / 2; }

// The half that the rank keeps when it and the rank that differs in `distance` halve what they have in
// common.
Range half(const Range& common, int64_t rank, int64_t distance) {
  return (rank & distance) == 0 ? Range{common.begin, middle(common)} : Range{middle(common), common.end};
}

Tensor part(const Tensor& values, const Range& range) {
  return values.slice(range.begin, range.end - range.begin);
}

}  // namespace

Range reduce_scatter(Communicator& ranks, Team& team, Tensor& values) {
  Range mine{0, values.size()};
  for (int64_t distance = 1; distance < ranks.ranks(); distance *= 2) {
    Range common = mine;
    mine = half(common, ranks.rank(), distance);
    Range theirs = half(common, ranks.rank() ^ distance, distance);
    Tensor kept = part(values, mine), received;
    team.run_one([&](Stream& stream) {
      received = Tensor(stream, values.dtype(), {kept.size()});
      ranks.exchange_tensors(stream, ranks.rank() ^ distance, part(values, theirs), received);
    });
    bool left = (ranks.rank() & distance) == 0;
    team.run((kept.size() + kRankChunk - 1) / kRankChunk, [&](Stream& stream, int64_t i) {
      Range chunk{i * kRankChunk, std::min((i + 1) * kRankChunk, kept.size())};
      Tensor own = part(kept, chunk), other = part(received, chunk);
      team.backend().add(stream, own.size(), own.dtype(), left ? own.data() : other.data(),
                         left ? other.data() : own.data(), own.data());
    });
  }
  return mine;
}

void all_gather(Communicator& ranks, Team& team, Tensor& values) {
  std::vector<Range> commons;
  Range mine{0, values.size()};
  for (int64_t distance = 1; distance < ranks.ranks(); distance *= 2) {
    commons.push_back(mine);
    mine = half(mine, ranks.rank(), distance);
  }
  for (int64_t distance = ranks.ranks() / 2; distance > 0; distance /= 2) {
    const Range common = commons.back();
    commons.pop_back();
    const Tensor own = part(values, half(common, ranks.rank(), distance));
    Tensor theirs = part(values, half(common, ranks.rank() ^ distance, distance));
    team.run_one(
        [&](Stream& stream) { ranks.exchange_tensors(stream, ranks.rank() ^ distance, own, theirs); });
  }
}

void all_reduce(Communicator& ranks, Team& team, Tensor& values) {
  reduce_scatter(ranks, team, values);
  all_gather(ranks, team, values);
}

void all_reduce(Communicator& ranks, Team& team, ShardSums& sums) {
  if (ranks.ranks() == 1) return;
  for (Tensor* values : {&sums.gradients, &sums.statistics})
    if (values->defined()) all_reduce(ranks, team, *values);
  std::vector<int64_t> reports;
  for (const auto& [offset, shards] : sums.reports) reports.insert(reports.end(), {offset, shards});
  sums.reports.clear();
  std::string own(reinterpret_cast<const char*>(reports.data()), reports.size() * sizeof(int64_t));
  for (const std::string& bytes : ranks.all_gather(own)) {
    std::vector<int64_t> theirs(bytes.size() / sizeof(int64_t));
    if (!bytes.empty()) std::memcpy(theirs.data(), bytes.data(), bytes.size());
    for (size_t i = 0; i < theirs.size(); i += 2) sums.reports[theirs[i]] += theirs[i + 1];
  }
}

Range shards_of_rank(const Communicator& ranks, int64_t shards) {
  int64_t own = shards / ranks.ranks();
  return {ranks.rank() * own, (ranks.rank() + 1) * own};
}

}  // namespace taper
