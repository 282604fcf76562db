#include "autograd/collectives.h"

#include <cstring>
#include <utility>

#include "runtime/library_sum.h"

namespace taper {

namespace {

Tensor part(const Tensor& values, const Range& range) { return values.slice(range.begin, range.size()); }

void sum_by_library(Communicator& ranks, Stream& stream, Tensor values) {
  LibrarySum* library = library_sum(ranks);
  TAPER_CHECK(library != nullptr, "a fast sum over {} ranks", ranks.ranks());
  library->sum(stream, values);
}

}  // namespace

Range reduce_scatter(Communicator& ranks, Backend& backend, Stream& stream, Tensor& values,
                     const Range& range, const Division& division) {
  Range mine = range;
  for (int64_t distance = 1; distance < ranks.ranks(); distance *= 2) {
    Range common = mine;
    mine = division.half(common, ranks.rank(), distance);
    Range theirs = division.half(common, ranks.rank() ^ distance, distance);
    Tensor kept = part(values, mine), received(stream, values.dtype(), {mine.size()});
    ranks.exchange_tensors(stream, ranks.rank() ^ distance, part(values, theirs), received);
    bool left = (ranks.rank() & distance) == 0;
    backend.add(stream, kept.size(), kept.dtype(), left ? kept.data() : received.data(),
                left ? received.data() : kept.data(), kept.data());
  }
  return mine;
}

void all_gather(Communicator& ranks, Stream& stream, Tensor& values, const Range& range,
                const Division& division) {
  std::vector<Range> commons;
  Range mine = range;
  for (int64_t distance = 1; distance < ranks.ranks(); distance *= 2) {
    commons.push_back(mine);
    mine = division.half(mine, ranks.rank(), distance);
  }
  for (int64_t distance = ranks.ranks() / 2; distance > 0; distance /= 2) {
    const Range common = commons.back();
    commons.pop_back();
    const Tensor own = part(values, division.half(common, ranks.rank(), distance));
    Tensor theirs = part(values, division.half(common, ranks.rank() ^ distance, distance));
    ranks.exchange_tensors(stream, ranks.rank() ^ distance, own, theirs);
  }
}

void all_reduce(Communicator& ranks, Backend& backend, Stream& stream, Tensor& values) {
  const Range whole{0, values.size()};
  reduce_scatter(ranks, backend, stream, values, whole);
  all_gather(ranks, stream, values, whole);
}

void all_reduce_statistics(Communicator& ranks, Backend& backend, Stream& stream, ShardSums& sums,
                           Reduction reduction) {
  if (sums.statistics.defined()) {
    if (reduction == Reduction::fast)
      sum_by_library(ranks, stream, sums.statistics);
    else
      all_reduce(ranks, backend, stream, sums.statistics);
  }
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

BucketSums::BucketSums(Communicator& ranks, Team& team, std::vector<Range> buckets,
                       std::shared_ptr<const Division> division, Reduction reduction)
    : ranks_(ranks),
      backend_(team.backend()),
      thread_(team.communication()),
      buckets_(std::move(buckets)),
      division_(std::move(division)),
      reduction_(reduction),
      ready_(buckets_.size()) {}

void BucketSums::ready(int64_t bucket, const Tensor& gradients) {
  std::lock_guard lock(mutex_);
  ready_[static_cast<size_t>(bucket)] = gradients;
  while (numbers_.size() < buckets_.size() && ready_[numbers_.size()].defined()) {
    // The thread may outlive this object, where a shard has failed.
    numbers_.push_back(thread_.post([&ranks = ranks_, &backend = backend_, division = division_,
                                     reduction = reduction_, range = buckets_[numbers_.size()],
                                     values = std::move(ready_[numbers_.size()])](Stream& stream) mutable {
      if (reduction == Reduction::fast) return sum_by_library(ranks, stream, part(values, range));
      reduce_scatter(ranks, backend, stream, values, range, division ? *division : Division());
      if (!division) all_gather(ranks, stream, values, range);
    }));
  }
}

Range BucketSums::wait(int64_t bucket) {
  const auto number = static_cast<size_t>(bucket);
  thread_.wait(numbers_.at(number));
  return division_ ? division_->part(buckets_[number], ranks_.rank(), ranks_.ranks()) : buckets_[number];
}

Range shards_of_rank(const Communicator& ranks, int64_t shards) {
  int64_t own = shards / ranks.ranks();
  return {ranks.rank() * own, (ranks.rank() + 1) * own};
}

}  // namespace taper
