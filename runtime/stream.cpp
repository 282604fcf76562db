#include "runtime/stream.h"

#include <bit>
#include <cstdlib>
#include <cstring>

#include "runtime/error.h"

namespace taper {

namespace {

constexpr int64_t kAlignment = 64;

// Eight classes to each power of two: at most an eighth of a block is slack.
int64_t size_class(int64_t bytes) {
  if (bytes <= 512) return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  int64_t step = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(bytes - 1))) / 8;
  return (bytes + step - 1) / step * step;
}

}  // namespace

void* HostMemory::allocate(int64_t bytes) {
  void* block =
      std::aligned_alloc(kAlignment, static_cast<size_t>((bytes + kAlignment - 1) / kAlignment * kAlignment));
  if (block == nullptr)
    throw Failure("the host has no {} bytes left; a smaller batch_size or more shards would need less",
                  bytes);
  return block;
}

void HostMemory::release(void* block) noexcept { std::free(block); }

CachingAllocator::~CachingAllocator() { trim(); }

void* CachingAllocator::allocate(int64_t bytes) {
  TAPER_CHECK(bytes >= 0, "asked for {} bytes", bytes);
  int64_t size = size_class(bytes > 0 ? bytes : 1);
  std::lock_guard lock(mutex_);
  void* block = nullptr;
  if (auto cached = free_.find(size); cached != free_.end() && !cached->second.empty()) {
    block = cached->second.back();
    cached->second.pop_back();
  } else {
    block = new_block(size);
    statistics_.held += size;
  }
  statistics_.in_use += size;
  statistics_.peak = std::max(statistics_.peak, statistics_.in_use);
  return block;
}

void* CachingAllocator::new_block(int64_t size) {
  if (statistics_.held != statistics_.in_use) try {
      return memory_->allocate(size);
    } catch (const Failure&) {
      give_back();
    }
  try {
    return memory_->allocate(size);
  } catch (const Failure& failure) {
    throw Failure("{}; this worker holds {} bytes, all of them in use", failure.what(), statistics_.held);
  }
}

void CachingAllocator::release(void* block, int64_t bytes) noexcept {
  int64_t size = size_class(bytes > 0 ? bytes : 1);
  std::lock_guard lock(mutex_);
  free_[size].push_back(block);
  statistics_.in_use -= size;
}

void CachingAllocator::trim() noexcept {
  std::lock_guard lock(mutex_);
  give_back();
}

void CachingAllocator::give_back() noexcept {
  for (auto& [size, blocks] : free_) {
    for (void* block : blocks) memory_->release(block);
    statistics_.held -= size * static_cast<int64_t>(blocks.size());
    blocks.clear();
  }
}

MemoryStatistics CachingAllocator::statistics() const {
  std::lock_guard lock(mutex_);
  return statistics_;
}

void CachingAllocator::reset_peak() {
  std::lock_guard lock(mutex_);
  statistics_.peak = statistics_.in_use;
}

std::unique_ptr<Graph> Stream::capture(const std::function<void()>&) {
  throw Failure("a stream of this device cannot be captured");
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): streams that capture do keep it
void Stream::keep(std::shared_ptr<const void>) { throw Failure("nothing is being captured"); }

void HostStream::upload(void* destination, const void* host, int64_t bytes) {
  copy(destination, host, bytes);
}
void HostStream::download(void* host, const void* source, int64_t bytes) { copy(host, source, bytes); }
void HostStream::copy(void* destination, const void* source, int64_t bytes) {
  if (bytes > 0) std::memcpy(destination, source, static_cast<size_t>(bytes));
}
void HostStream::zero(void* destination, int64_t bytes) {
  if (bytes > 0) std::memset(destination, 0, static_cast<size_t>(bytes));
}

}  // namespace taper
