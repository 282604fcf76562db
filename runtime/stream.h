#pragma once
// A device's memory and queue of work, as everything above the kernels sees them.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace taper {

/// Raw memory of one device. Blocks are aligned to 64 bytes at least.
class Memory {
 public:
  virtual ~Memory() = default;
  /// Throws Failure that says how much was asked when the device has no more.
  virtual void* allocate(int64_t bytes) = 0;
  virtual void release(void* block) noexcept = 0;
};

/// malloc'd memory of the host, aligned to 64 bytes.
class HostMemory final : public Memory {
 public:
  void* allocate(int64_t bytes) override;
  void release(void* block) noexcept override;
};

/// Bytes handed out now, the most ever handed out at once, and what is held from the device (in use or
/// cached).
struct MemoryStatistics {
  int64_t in_use = 0, peak = 0, held = 0;
};

/// Keeps released blocks and hands them out again by size class (an eighth of a power of two), last in first
/// out, so that a training step allocates nothing after the first. When the device has no more, it gives the
/// cached blocks back and asks once more.
///
/// Thread-safe: a block may be released by any thread. It belongs to the stream whose allocator this is, and
/// may be handed out again at once, while that stream's own work on it is still queued: what uses it next is
/// queued behind. Work of *other* streams is not ordered so: whoever lets another stream use the block
/// synchronises that stream before the block can be released (Stream says who does).
class CachingAllocator {
 public:
  explicit CachingAllocator(std::unique_ptr<Memory> memory) : memory_(std::move(memory)) {}
  ~CachingAllocator();
  CachingAllocator(const CachingAllocator&) = delete;
  CachingAllocator& operator=(const CachingAllocator&) = delete;

  /// Throws Failure when the device has no more.
  void* allocate(int64_t bytes);
  /// `bytes` as given to allocate.
  void release(void* block, int64_t bytes) noexcept;
  /// Gives cached blocks back to the device.
  void trim() noexcept;
  MemoryStatistics statistics() const;
  void reset_peak();

 private:
  void* new_block(int64_t size);
  void give_back() noexcept;

  std::unique_ptr<Memory> memory_;
  mutable std::mutex mutex_;
  std::map<int64_t, std::vector<void*>> free_;
  MemoryStatistics statistics_;
};

/// Work of a stream, recorded once and started as one any number of times, on the same memory each time. The
/// stream outlives it.
class Graph {
 public:
  virtual ~Graph() = default;
  /// Puts the work into the stream's queue.
  virtual void launch() = 0;
};

/// An ordered queue of work on one device, with the allocator of what that work uses. One worker, one stream:
/// only one thread at a time issues work to it. Copies and kernels run in the order of their calls; on the
/// CPU each is finished when its call returns. Pointers are the device's unless called `host`.
///
/// Streams are not ordered among themselves. What one stream's work has written, another may use only after
/// the first was synchronised, and memory of another stream's allocator is released only after the user was.
/// Above the kernels that is seen to: a Team's run() ends with its streams synchronised; what is handed to
/// another worker or the communication thread while it lasts (a ShardTree's sums, derived copies) is
/// synchronised before; and a CommunicationThread synchronises its stream behind each task.
class Stream {
 public:
  explicit Stream(std::unique_ptr<Memory> memory)
      : allocator_(std::make_shared<CachingAllocator>(std::move(memory))) {}
  virtual ~Stream() = default;
  /// `host` has been read on return.
  virtual void upload(void* destination, const void* host, int64_t bytes) = 0;
  /// Waits for the copy: `host` is valid on return.
  virtual void download(void* host, const void* source, int64_t bytes) = 0;
  virtual void copy(void* destination, const void* source, int64_t bytes) = 0;
  virtual void zero(void* destination, int64_t bytes) = 0;
  /// Waits until all work issued so far is done; throws what it failed with.
  virtual void synchronize() = 0;
  /// Whether the host reads and writes its memory as any other.
  virtual bool on_host() const { return false; }

  /// Records what `work` issues to this stream instead of doing it. The memory that `work` allocates from the
  /// stream is the graph's alone: what it releases is handed out again within the graph only, and what it
  /// keeps holds the values of the last launch. Until `work` returns, upload(), download() and synchronize()
  /// are a Failure, for nothing has been done that they could wait for. What `work` throws is thrown on, and
  /// nothing is recorded. Failure for a stream that cannot: the host's.
  virtual std::unique_ptr<Graph> capture(const std::function<void()>& work);
  virtual bool capturing() const { return false; }
  /// Within capture(): the graph holds `object` as long as it lives. For what its work reads and others may
  /// let go of.
  virtual void keep(std::shared_ptr<const void> object);

  /// The stream's, or within capture() the graph's.
  const std::shared_ptr<CachingAllocator>& allocator() const { return allocator_; }

 protected:
  std::shared_ptr<CachingAllocator> allocator_;
};

/// A stream of the host's own thread: memcpy and memset.
class HostStream : public Stream {
 public:
  HostStream() : Stream(std::make_unique<HostMemory>()) {}
  void upload(void* destination, const void* host, int64_t bytes) override;
  void download(void* host, const void* source, int64_t bytes) override;
  void copy(void* destination, const void* source, int64_t bytes) override;
  void zero(void* destination, int64_t bytes) override;
  void synchronize() override {}
  bool on_host() const override { return true; }
};

}  // namespace taper
