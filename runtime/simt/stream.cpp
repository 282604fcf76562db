// The CUDA runtime's functions on streams, events and graphs.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "runtime/simt/error.h"
#include "runtime/simt/queue.h"
#include "runtime/simt/schedule.h"
#include "runtime/simt/simt.h"

using taper::simt::remember;

struct CUgraph_st {
  std::shared_ptr<const taper::simt::Graph> graph;
};

struct CUgraphExec_st {
  std::shared_ptr<const taper::simt::Graph> graph;
};

namespace taper::simt {

namespace {

std::atomic<int64_t> launches = 0;

// Does a graph's work; under a late schedule in any order that the dependencies allow.
std::string run(const Graph& graph, int64_t launch) {
  Choices choices(schedule().seed + static_cast<uint64_t>(launch) * 0x10001);
  bool any_order = schedule().streams == Schedule::Streams::kLate;
  std::vector<bool> done(graph.nodes.size());
  std::vector<size_t> left(graph.nodes.size());
  for (size_t node = 0; node < left.size(); ++node) left[node] = node;
  while (!left.empty()) {
    size_t choice = 0;
    auto waits = [&](size_t node) { return !done[node]; };
    do {
      if (any_order) choice = choices.below(left.size());
    } while (std::ranges::any_of(graph.nodes[left[choice]].after, waits));
    size_t node = left[choice];
    if (std::string failure = graph.nodes[node].work(); !failure.empty()) return failure;
    done[node] = true;
    left.erase(left.begin() + static_cast<std::ptrdiff_t>(choice));
  }
  return {};
}

}  // namespace

int64_t graph_launches() { return launches; }

}  // namespace taper::simt

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  *stream = taper::simt::create_stream((flags & cudaStreamNonBlocking) == 0);
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) { return taper::simt::destroy_stream(stream); }

cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return taper::simt::synchronize(stream); }

cudaError_t cudaStreamQuery(cudaStream_t stream) { return taper::simt::query(stream); }

cudaError_t cudaDeviceSynchronize() { return taper::simt::synchronize_all(); }

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return taper::simt::wait_for(stream, *event);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return taper::simt::submit(stream, [=] {
    function(data);
    return std::string();
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return taper::simt::record(stream, *event);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->capture) return remember(cudaErrorCapturedEvent);
  return taper::simt::synchronize(event->mark);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event->capture) return remember(cudaErrorCapturedEvent);
  return taper::simt::query(event->mark);
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  if (start->mark == nullptr || end->mark == nullptr) return remember(cudaErrorInvalidResourceHandle);
  if (!start->mark->done || !end->mark->done) return remember(cudaErrorNotReady);
  *milliseconds = std::chrono::duration<float, std::milli>(end->mark->time - start->mark->time).count();
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return taper::simt::begin_capture(stream, mode);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  taper::simt::Graph captured;
  if (cudaError_t error = taper::simt::end_capture(stream, captured)) return error;
  *graph = new CUgraph_st{std::make_shared<const taper::simt::Graph>(std::move(captured))};
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = taper::simt::captures(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  if (nodes != nullptr) return remember(cudaErrorNotSupported);
  *count = graph->graph->nodes.size();
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{graph->graph};
  return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  return taper::simt::submit(stream, [graph = executable->graph, launch = taper::simt::launches++] {
    return taper::simt::run(*graph, launch);
  });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
}
