#include "runtime/cuda/graph.h"

#include "runtime/cuda/error.h"
#include "runtime/cuda/stream.h"

namespace taper {

namespace {

/// Gives nothing back before it goes itself: recorded work refers to every block that it was ever given, also
/// where an allocator has no more use for one.
class GraphMemory final : public Memory {
 public:
  explicit GraphMemory(int device) : device_(device) {}
  ~GraphMemory() override {
    for (void* block : blocks_) device_.release(block);
  }
  void* allocate(int64_t bytes) override {
    blocks_.reserve(blocks_.size() + 1);
    return blocks_.emplace_back(device_.allocate(bytes));
  }
  void release(void*) noexcept override {}

 private:
  CudaMemory device_;
  std::vector<void*> blocks_;
};

}  // namespace

CudaGraph::CudaGraph(int device, cudaStream_t stream)
    : stream_(stream),
      allocator_(std::make_shared<CachingAllocator>(std::make_unique<GraphMemory>(device))) {}

void CudaGraph::record(const std::function<void()>& work) {
  TAPER_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed));
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(stream_, &graph);  // so that the stream works again
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  TAPER_CUDA(cudaStreamEndCapture(stream_, &graph));
  const std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, Destroy> owner(graph);
  cudaGraphExec_t executable = nullptr;
  TAPER_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  executable_.reset(executable);
}

void CudaGraph::launch() { TAPER_CUDA(cudaGraphLaunch(executable_.get(), stream_)); }

}  // namespace taper
