#include "runtime/simt/capture.h"

#include <algorithm>
#include <atomic>

namespace taper::simt {

namespace {

/// Captures that forbid waiting for the device: in all threads, or in the one that began them.
std::atomic<int> global_captures = 0;
thread_local int own_captures = 0;

// Whether every node is one that `last` comes after, so that no stream's work was left unjoined.
bool all_before(const Graph& graph, const std::vector<size_t>& last) {
  std::vector<bool> before(graph.nodes.size());
  for (size_t node : last) before[node] = true;
  for (size_t node = graph.nodes.size(); node-- > 0;) {
    if (!before[node]) return false;
    for (size_t earlier : graph.nodes[node].after) before[earlier] = true;
  }
  return true;
}

}  // namespace

void append(CUstream_st& stream, Work work) {
  Graph& graph = stream.capture->graph;
  graph.nodes.push_back({.work = std::move(work), .after = stream.last});
  stream.last = {graph.nodes.size() - 1};
}

cudaError_t join(CUstream_st& stream, const CUevent_st& event) {
  if (event.capture == nullptr)  // nothing recorded is nothing to wait for
    return event.mark == nullptr ? cudaSuccess : cudaErrorStreamCaptureIsolation;
  if (event.capture->origin == nullptr) return cudaErrorCapturedEvent;
  if (stream.capture == nullptr) {
    stream.capture = event.capture;
    stream.last.clear();
    stream.capture->streams.push_back(&stream);
  }
  if (stream.capture != event.capture) return cudaErrorStreamCaptureMerge;
  stream.last.insert(stream.last.end(), event.last.begin(), event.last.end());
  std::sort(stream.last.begin(), stream.last.end());
  stream.last.erase(std::unique(stream.last.begin(), stream.last.end()), stream.last.end());
  return cudaSuccess;
}

cudaError_t start(CUstream_st& stream, cudaStreamCaptureMode mode) {
  if (stream.capture) return cudaErrorIllegalState;
  stream.capture =
      std::make_shared<Capture>(Capture{.origin = &stream, .mode = mode, .graph = {}, .streams = {&stream}});
  stream.last.clear();
  if (mode == cudaStreamCaptureModeGlobal) ++global_captures;
  if (mode != cudaStreamCaptureModeRelaxed) ++own_captures;
  return cudaSuccess;
}

cudaError_t finish(CUstream_st& stream, Graph& graph) {
  if (stream.capture == nullptr) return cudaErrorIllegalState;
  if (stream.capture->origin != &stream) return cudaErrorStreamCaptureUnmatched;
  auto capture = stream.capture;
  bool joined = all_before(capture->graph, stream.last);
  if (capture->mode == cudaStreamCaptureModeGlobal) --global_captures;
  if (capture->mode != cudaStreamCaptureModeRelaxed) --own_captures;
  capture->origin = nullptr;
  for (CUstream_st* one : capture->streams) one->capture = nullptr;
  if (!joined) return cudaErrorStreamCaptureUnjoined;
  graph = std::move(capture->graph);
  return cudaSuccess;
}

bool capture_forbids_waiting() { return own_captures > 0 || global_captures > 0; }

}  // namespace taper::simt
