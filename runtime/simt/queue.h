#pragma once
// Streams as queues of work.

#include <driver_types.h>

#include <functional>
#include <string>

namespace taper::simt {

/// Something to do on the device, in words what went wrong with it (empty: nothing).
using Work = std::function<std::string()>;

/// Puts work into a stream's queue.
cudaError_t submit(cudaStream_t stream, const Work& work);

}  // namespace taper::simt
