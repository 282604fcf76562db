#include "autograd/collectives.h"

#include <cstring>
#include <utility>

namespace taper {

namespace {

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

Range reduce_scatter(Communicator& ranks, Backend& backend, Stream& stream, Tensor& values) {
  Range mine{0, values.size()};
  for (int64_t distance = 1; distance < ranks.ranks(); distance *= 2) {
    Range common = mine;
    mine = half(common, ranks.rank(), distance);
    Range theirs = half(common, ranks.rank() ^ distance, distance);
    Tensor kept = part(values, mine), received(stream, values.dtype(), {mine.size()});
    ranks.exchange_tensors(stream, ranks.rank() ^ distance, part(values, theirs), received);
    bool left = (ranks.rank() & distance) == 0;
    backend.add(stream, kept.size(), kept.dtype(), left ? kept.data() : received.data(),
                left ? received.data() : kept.data(), kept.data());
  }
  return mine;
}

void all_gather(Communicator& ranks, Stream& stream, Tensor& values) {
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
    ranks.exchange_tensors(stream, ranks.rank() ^ distance, own, theirs);
  }
}

void all_reduce(Communicator& ranks, Backend& backend, Stream& stream, Tensor& values) {
  reduce_scatter(ranks, backend, stream, values);
  all_gather(ranks, stream, values);
}

void all_reduce_statistics(Communicator& ranks, Backend& backend, Stream& stream, ShardSums& sums) {
  if (sums.statistics.defined()) all_reduce(ranks, backend, stream, sums.statistics);
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

BucketSums::BucketSums(Communicator& ranks, Team& team, std::vector<Range> buckets)
    : ranks_(ranks),
      backend_(team.backend()),
      thread_(team.communication()),
      buckets_(std::move(buckets)),
      ready_(buckets_.size()) {}

void BucketSums::ready(int64_t bucket, const Tensor& gradients) {
  std::lock_guard lock(mutex_);
  ready_[static_cast<size_t>(bucket)] = part(gradients, buckets_[static_cast<size_t>(bucket)]);
  while (numbers_.size() < buckets_.size() && ready_[numbers_.size()].defined()) {
    // The thread may outlive this object, where a shard has failed.
    numbers_.push_back(
        thread_.post([&ranks = ranks_, &backend = backend_, values = std::move(ready_[numbers_.size()])](
                         Stream& stream) mutable { all_reduce(ranks, backend, stream, values); }));
  }
}

void BucketSums::wait(int64_t bucket) { thread_.wait(numbers_.at(static_cast<size_t>(bucket))); }

Range shards_of_rank(const Communicator& ranks, int64_t shards) {
  int64_t own = shards / ranks.ranks();
  return {ranks.rank() * own, (ranks.rank() + 1) * own};
}

}  // namespace taper
