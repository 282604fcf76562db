#include "runtime/cuda/stream.h"

#include <algorithm>
#include <cstring>

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
  if (scratch_ != nullptr) allocator()->release(scratch_, scratch_bytes_);
}

void CudaStream::upload(void* destination, const void* host, int64_t bytes) {
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

void CudaStream::synchronize() { TAPER_CUDA(cudaStreamSynchronize(handle())); }

void* CudaStream::scratch(int64_t bytes) {
  if (bytes > scratch_bytes_) {
    if (scratch_ != nullptr) allocator()->release(scratch_, scratch_bytes_);
    scratch_ = nullptr;
    scratch_bytes_ = 0;
    scratch_ = allocator()->allocate(bytes);
    scratch_bytes_ = bytes;
  }
  return scratch_;
}

CudaStream& cuda_stream(Stream& stream) {
  auto* result = dynamic_cast<CudaStream*>(&stream);
  TAPER_CHECK(result != nullptr, "the CUDA backend needs a stream that it made itself");
  return *result;
}

}  // namespace taper
