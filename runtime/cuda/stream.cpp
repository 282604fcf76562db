#include "runtime/cuda/stream.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "runtime/cuda/graph.h"

namespace taper {

namespace {

// Of one pinned buffer: long enough that a copy's fixed cost does not show.
constexpr int64_t kStagingBytes = int64_t{4} << 20;

cudaStream_t make_stream(int device) {
  TAPER_CUDA(cudaSetDevice(device));
  cudaStream_t stream = nullptr;
  TAPER_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return stream;
}

}  // namespace

void* CudaMemory::allocate(int64_t bytes) {
  TAPER_CUDA(cudaSetDevice(device_));
  void* block = nullptr;
  const cudaError_t code = cudaMalloc(&block, static_cast<size_t>(bytes));
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // told by the exception
    size_t free = 0, total = 0;
    TAPER_CUDA(cudaMemGetInfo(&free, &total));
    throw Failure(
        "CUDA device {} has no {} bytes left: {} of its {} bytes are free; a smaller batch_size, more shards "
        "or fewer workers would need less",
        device_, bytes, free, total);
  }
  TAPER_CUDA(code);
  return block;
}

void CudaMemory::release(void* block) noexcept { cudaFree(block); }

CudaEvent::CudaEvent() { TAPER_CUDA(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
CudaEvent::~CudaEvent() { cudaEventDestroy(event_); }
void CudaEvent::record(cudaStream_t stream) { TAPER_CUDA(cudaEventRecord(event_, stream)); }
void CudaEvent::synchronize() { TAPER_CUDA(cudaEventSynchronize(event_)); }
void CudaEvent::hold(cudaStream_t stream) { TAPER_CUDA(cudaStreamWaitEvent(stream, event_, 0)); }

CudaStream::CudaStream(int device)
    : Stream(std::make_unique<CudaMemory>(device)), device_(device), stream_(make_stream(device)) {}

CudaStream::~CudaStream() {
  // What is queued may still read the pinned buffers and the scratch memory.
  cudaStreamSynchronize(handle());
  for (Staging& staging : staging_)
    if (staging.buffer != nullptr) cudaFreeHost(staging.buffer);
  release_scratch();
}

void CudaStream::upload(void* destination, const void* host, int64_t bytes) {
  require_no_capture("upload");
  for (int64_t done = 0; done < bytes; done += kStagingBytes) {
    const auto part = static_cast<size_t>(std::min(kStagingBytes, bytes - done));
    Staging& staging = staging_[turn_];
    turn_ = (turn_ + 1) % staging_.size();
    if (staging.buffer == nullptr) TAPER_CUDA(cudaMallocHost(&staging.buffer, kStagingBytes));
    staging.copied.synchronize();
    std::memcpy(staging.buffer, static_cast<const char*>(host) + done, part);
    TAPER_CUDA(cudaMemcpyAsync(static_cast<char*>(destination) + done, staging.buffer, part,
                               cudaMemcpyHostToDevice, handle()));
    staging.copied.record(handle());
  }
}

void CudaStream::download(void* host, const void* source, int64_t bytes) {
  require_no_capture("download");
  if (bytes > 0)
    TAPER_CUDA(cudaMemcpyAsync(host, source, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, handle()));
  synchronize();
}

void CudaStream::copy(void* destination, const void* source, int64_t bytes) {
  if (bytes > 0)
    TAPER_CUDA(
        cudaMemcpyAsync(destination, source, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, handle()));
}

void CudaStream::zero(void* destination, int64_t bytes) {
  if (bytes > 0) TAPER_CUDA(cudaMemsetAsync(destination, 0, static_cast<size_t>(bytes), handle()));
}

void CudaStream::synchronize() {
  require_no_capture("synchronize");
  TAPER_CUDA(cudaStreamSynchronize(handle()));
}

std::unique_ptr<Graph> CudaStream::capture(const std::function<void()>& work) {
  require_no_capture("capture");
  allocator()->trim();
  auto graph = std::make_unique<CudaGraph>(device_, handle());
  // The graph's memory, its scratch memory too, in the place of the stream's, however `work` ends.
  struct Lent {
    Lent(CudaStream& to, CudaGraph& graph)
        : stream(to), allocator(std::exchange(to.allocator_, graph.allocator())), scratch(to.scratch_) {
      stream.scratch_ = {};
      stream.captured_ = &graph;
    }
    ~Lent() {
      stream.release_scratch();
      stream.captured_ = nullptr;
      stream.scratch_ = scratch;
      stream.allocator_ = allocator;
    }
    Lent(const Lent&) = delete;
    Lent& operator=(const Lent&) = delete;
    CudaStream& stream;
    std::shared_ptr<CachingAllocator> allocator;
    Scratch scratch;
  };
  const Lent lent(*this, *graph);
  graph->record(work);
  return graph;
}

void CudaStream::keep(std::shared_ptr<const void> object) {
  TAPER_CHECK(capturing(), "nothing is being captured");
  captured_->keep(std::move(object));
}

void CudaStream::require_no_capture(const char* call) const {
  TAPER_CHECK(!capturing(), "{} while a graph is captured: nothing has been done yet", call);
}

void* CudaStream::scratch(int64_t bytes) {
  if (bytes > scratch_.bytes) {
    release_scratch();
    scratch_.block = allocator()->allocate(bytes);
    scratch_.bytes = bytes;
  }
  return scratch_.block;
}

void CudaStream::release_scratch() noexcept {
  if (scratch_.block != nullptr) allocator()->release(scratch_.block, scratch_.bytes);
  scratch_ = {};
}

CudaStream& cuda_stream(Stream& stream) {
  auto* result = dynamic_cast<CudaStream*>(&stream);
  TAPER_CHECK(result != nullptr, "the CUDA backend needs a stream that it made itself");
  return *result;
}

}  // namespace taper
