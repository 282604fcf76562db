#pragma once
// Ranks whose devices NCCL connects.

#include <memory>

#include "runtime/communicator.h"

namespace taper {

/// The same ranks as `host`'s, each with a CUDA device of its own, of which this rank's is `device`. Tensors
/// go from device to device, on the stream, by NCCL's point to point calls, so that it decides no bit but of
/// its LibrarySum, which is its all-reduce. Everything else goes through `host`, which outlives the result;
/// its broadcast carries NCCL's unique id. A thread of the host asks NCCL for errors that come later; one
/// ends all ranks by `host`'s fail(). While a transfer is under way, its partner is noted as waited for. All
/// ranks call it; Failure where NCCL cannot connect them.
std::unique_ptr<Communicator> make_nccl_communicator(Communicator& host, int device);

}  // namespace taper
