#pragma once
// A CUDA device's memory, events and streams.

#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <memory>
#include <type_traits>

#include "runtime/cuda/error.h"
#include "runtime/stream.h"

namespace taper {

class CudaGraph;

/// Memory of a CUDA device, from cudaMalloc: aligned to 256 bytes, and cudaFree waits for the device's work,
/// so that giving a block back is always safe. CachingAllocator makes both rare.
class CudaMemory final : public Memory {
 public:
  explicit CudaMemory(int device) : device_(device) {}
  void* allocate(int64_t bytes) override;
  void release(void* block) noexcept override;

 private:
  int device_;
};

/// A point in a stream's work.
class CudaEvent {
 public:
  CudaEvent();
  ~CudaEvent();
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  /// The point after all work issued to `stream` so far.
  void record(cudaStream_t stream);
  /// Makes the host wait for the point last recorded; returns at once where there is none.
  void synchronize();
  /// Makes the work issued to `stream` from now on wait for it.
  void hold(cudaStream_t stream);

 private:
  cudaEvent_t event_ = nullptr;
};

/// A CUDA stream as a worker's queue. Make it, and use it, on one thread, whose current device it sets.
///
/// Memory comes back stream-ordered: a released block may be handed out while the stream's own earlier work
/// on it is still queued, because what uses it next is queued behind. So nothing waits, and a step allocates
/// nothing from the device after the first. Work on *other* streams is not ordered by that; stream.h says who
/// synchronises.
class CudaStream final : public Stream {
 public:
  explicit CudaStream(int device);
  ~CudaStream() override;

  /// Returns when `host` has been read: it goes through two pinned buffers by turns, so that the copy itself
  /// runs while the host fills the next part.
  void upload(void* destination, const void* host, int64_t bytes) override;
  void download(void* host, const void* source, int64_t bytes) override;
  void copy(void* destination, const void* source, int64_t bytes) override;
  void zero(void* destination, int64_t bytes) override;
  void synchronize() override;
  /// The stream's cached memory goes back to the device first: what `work` needs is allocated anew.
  std::unique_ptr<Graph> capture(const std::function<void()>& work) override;
  bool capturing() const override { return captured_ != nullptr; }
  void keep(std::shared_ptr<const void> object) override;

  cudaStream_t handle() const { return stream_.get(); }
  int device() const { return device_; }
  /// Device memory, uninitialised and aligned to 256 bytes, for the op now being issued; the next call of
  /// scratch() may give the same memory, to the stream's next op, or another. A graph's is its own.
  void* scratch(int64_t bytes);

 private:
  struct Staging {
    void* buffer = nullptr;  // pinned
    CudaEvent copied;
  };
  struct Destroy {
    void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
  };
  struct Scratch {
    void* block = nullptr;
    int64_t bytes = 0;
  };
  void release_scratch() noexcept;
  void require_no_capture(const char* call) const;
  int device_;
  std::unique_ptr<std::remove_pointer_t<cudaStream_t>, Destroy> stream_;
  std::array<Staging, 2> staging_;
  size_t turn_ = 0;
  Scratch scratch_;
  CudaGraph* captured_ = nullptr;
};

/// The stream as what it is; Failure for a stream of another backend.
CudaStream& cuda_stream(Stream& stream);

}  // namespace taper
