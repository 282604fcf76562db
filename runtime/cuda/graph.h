#pragma once
// CUDA graphs: what a stream recorded, with the memory that it works on.

#include <cuda_runtime.h>

#include <functional>
#include <memory>
#include <type_traits>
#include <vector>

#include "runtime/stream.h"

namespace taper {

/// Recorded by CudaStream::capture(), which lends the stream the graph's allocator meanwhile. Blocks of that
/// allocator never go back to the device before the graph does, and every tensor that `work` kept.
class CudaGraph final : public Graph {
 public:
  /// Empty, for work of this stream.
  CudaGraph(int device, cudaStream_t stream);
  const std::shared_ptr<CachingAllocator>& allocator() const { return allocator_; }
  /// Records what `work` issues to the stream; once. Only this stream is captured, and only what is unsafe in
  /// any capture is refused by CUDA (cudaStreamCaptureModeRelaxed): the graph's memory is allocated while it
  /// lasts, and other threads work on.
  void record(const std::function<void()>& work);
  void keep(std::shared_ptr<const void> object) { kept_.push_back(std::move(object)); }
  void launch() override;

 private:
  struct Destroy {
    void operator()(cudaGraph_t graph) const { cudaGraphDestroy(graph); }
    void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
  };
  cudaStream_t stream_;
  std::shared_ptr<CachingAllocator> allocator_;
  std::vector<std::shared_ptr<const void>> kept_;
  std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Destroy> executable_;
};

}  // namespace taper
