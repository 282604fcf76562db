#pragma once
// Graphs: what streams record while they are captured. The caller holds the mutex of the streams.

#include "runtime/simt/queue.h"

namespace taper::simt {

/// Adds a node to the graph that a stream captures.
void append(CUstream_st& stream, Work work);

/// Orders what the stream captures next after the event. An event of another stream's capture makes the
/// stream take part in it.
cudaError_t join(CUstream_st& stream, const CUevent_st& event);

cudaError_t start(CUstream_st& stream, cudaStreamCaptureMode mode);
cudaError_t finish(CUstream_st& stream, Graph& graph);

}  // namespace taper::simt
