#include "autograd/shards.h"

#include <algorithm>
#include <utility>

namespace taper {

namespace {
// What one task of an elementwise pass takes: large enough to pay for the hand-over, small enough to share.
constexpr int64_t kChunk = int64_t{1} << 18;
}  // namespace

Team::Team(Backend& backend, int workers, int threads_per_shard) : backend_(backend) {
  TAPER_CHECK(workers > 0 && threads_per_shard > 0, "{} workers of {} threads", workers, threads_per_shard);
  streams_.resize(static_cast<size_t>(workers));
  for (size_t i = 0; i < streams_.size(); ++i)
    threads_.emplace_back([this, i, threads_per_shard] { work(i, threads_per_shard); });
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return ready_ == static_cast<int64_t>(streams_.size()); });
  if (!error_) return;
  // The destructor does not run for an object whose constructor throws.
  stop_ = true;
  wake_.notify_all();
  lock.unlock();
  for (std::thread& thread : threads_) thread.join();
  std::rethrow_exception(error_);
}

Team::~Team() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Team::work(size_t worker, int threads_per_shard) {
  std::unique_ptr<Stream> stream;
  std::exception_ptr failure;
  try {
    stream = backend_.make_stream(threads_per_shard);  // on the thread that will use it
  } catch (...) {
    failure = std::current_exception();
  }
  std::unique_lock lock(mutex_);
  streams_[worker] = std::move(stream);
  if (failure) error_ = failure;
  ++ready_;
  done_.notify_all();
  while (true) {
    wake_.wait(lock, [&] { return stop_ || next_ < count_; });
    if (stop_) return;
    ++running_;
    int64_t index = next_;
    auto attempt = [&](auto&& work) {
      lock.unlock();
      std::exception_ptr error;
      try {
        work();
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      if (error && (!error_ || index < error_index_)) {
        error_ = error;
        error_index_ = index;
      }
    };
    while (next_ < count_) {
      index = next_++;
      attempt([&] { (*task_)(*streams_[worker], index); });
    }
    attempt([&] { streams_[worker]->synchronize(); });
    if (--running_ == 0 && next_ == count_) done_.notify_all();
  }
}

void Team::run(int64_t count, const Task& task) {
  std::unique_lock lock(mutex_);
  task_ = &task;
  next_ = 0;
  count_ = count;
  error_ = nullptr;
  wake_.notify_all();
  done_.wait(lock, [&] { return next_ == count_ && running_ == 0; });
  count_ = next_ = 0;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

MemoryStatistics Team::memory() const {
  MemoryStatistics sum;
  for (const auto& stream : streams_) {
    MemoryStatistics one = stream->allocator()->statistics();
    sum.in_use += one.in_use;
    sum.peak += one.peak;
    sum.held += one.held;
  }
  return sum;
}

void Team::reset_peak() {
  for (const auto& stream : streams_) stream->allocator()->reset_peak();
}

CommunicationThread& Team::communication() {
  if (!communication_) communication_ = std::make_unique<CommunicationThread>(backend_);
  return *communication_;
}

void Team::trim() {
  for (const auto& stream : streams_) stream->allocator()->trim();
}

ShardTree::ShardTree(Backend& backend, DType type, int64_t shards, int64_t gradients, int64_t statistics,
                     std::vector<Range> buckets, BucketDone done)
    : backend_(backend),
      type_(accumulator(type)),
      shards_(shards),
      gradients_(gradients),
      statistics_(statistics),
      buckets_(std::move(buckets)),
      done_(std::move(done)),
      waiting_buckets_(buckets_.size()) {
  TAPER_CHECK(shards > 0 && (shards & (shards - 1)) == 0, "{} shards", shards);
}

ShardSums ShardTree::make(Stream& stream) const {
  ShardSums sums;
  if (gradients_ > 0) sums.gradients = Tensor::zeros(stream, type_, {gradients_});
  if (statistics_ > 0) sums.statistics = Tensor::zeros(stream, type_, {statistics_});
  return sums;
}

void ShardTree::merge(Stream& stream, Tensor& into, const Tensor& from, int64_t begin, int64_t end) const {
  if (begin >= end) return;
  Tensor sum = into.slice(begin, end - begin);
  backend_.add(stream, end - begin, type_, sum.data(), from.slice(begin, end - begin).data(), sum.data());
}

void ShardTree::merge_reports(ShardSums& into, const ShardSums& from) {
  for (const auto& [offset, shards] : from.reports) into.reports[offset] += shards;
}

void ShardTree::finish_bucket(Stream& stream, int64_t index, const ShardSums& sums, int64_t bucket) {
  const auto number = static_cast<size_t>(bucket);
  Tensor own = sums.gradients;
  stream.synchronize();  // another worker's stream may read them from now on
  for (int64_t level = 0; shards_ >> level > 1; ++level, index /= 2) {
    Tensor other;
    {
      std::lock_guard lock(mutex_);
      std::map<Place, Tensor>& waiting = waiting_buckets_[number];
      auto found = waiting.find({level, index ^ 1});
      if (found == waiting.end()) {
        waiting[{level, index}] = std::move(own);
        return;
      }
      other = std::move(found->second);
      waiting.erase(found);
    }
    if (index % 2 == 1) std::swap(own, other);  // the even one is the left operand
    merge(stream, own, other, buckets_[number].begin, buckets_[number].end);
    stream.synchronize();
  }
  {
    std::lock_guard lock(mutex_);
    summed_ = own;  // of all buckets the first shard's, which is on the left of every addition
  }
  done_(bucket, own);
}

void ShardTree::finish(Stream& stream, int64_t index, ShardSums sums) {
  if (!buckets_.empty()) sums.gradients = {};
  int64_t level = 0;
  stream.synchronize();  // another worker's stream may read the sums from now on
  for (; shards_ >> level > 2; ++level, index /= 2) {
    std::pair sibling{level, index ^ 1};
    ShardSums other;
    {
      std::lock_guard lock(mutex_);
      auto found = waiting_.find(sibling);
      if (found == waiting_.end()) {
        waiting_[{level, index}] = std::move(sums);
        return;
      }
      other = std::move(found->second);
      waiting_.erase(found);
    }
    if (index % 2 == 1) std::swap(sums, other);  // the even one is the left operand
    merge(stream, sums.gradients, other.gradients, 0, sums.gradients.size());
    merge(stream, sums.statistics, other.statistics, 0, statistics_);
    merge_reports(sums, other);
    stream.synchronize();  // `other` goes back to its stream's cache, and the sums to another worker
  }
  std::lock_guard lock(mutex_);
  waiting_[{level, index}] = std::move(sums);
}

ShardSums ShardTree::total(Team& team) {
  // Complete: the one shard there is, or the two halves; their level has at most two nodes.
  bool complete = static_cast<int64_t>(waiting_.size()) == std::min<int64_t>(shards_, 2);
  for (const auto& [place, sums] : waiting_) complete = complete && shards_ >> place.first <= 2;
  TAPER_CHECK(complete, "not all of {} shards have finished", shards_);
  ShardSums left = std::move(waiting_.begin()->second);
  if (shards_ > 1) {
    ShardSums right = std::move(waiting_.rbegin()->second);
    const int64_t gradients = left.gradients.size(), chunks = (gradients + kChunk - 1) / kChunk;
    team.run(chunks + 1, [&](Stream& stream, int64_t i) {
      if (i == chunks) return merge(stream, left.statistics, right.statistics, 0, statistics_);
      merge(stream, left.gradients, right.gradients, i * kChunk, std::min((i + 1) * kChunk, gradients));
    });
    merge_reports(left, right);
  }
  waiting_.clear();
  if (!buckets_.empty()) left.gradients = std::move(summed_);
  return left;
}

void refresh(Team& team, ParameterStore& store) {
  std::vector<std::string> keys = store.stale();
  std::sort(keys.begin(), keys.end());
  team.run(static_cast<int64_t>(keys.size()),
           [&](Stream& stream, int64_t i) { store.remake(stream, keys[static_cast<size_t>(i)]); });
}

}  // namespace taper
