// NCCL's own sum over ranks, of what its stand-in sends: every rank gets all vectors, and adds them in the
// order of the ranks, from left to right. That is not Taper's tree, as NCCL's order is not.

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <algorithm>

#include "runtime/simt/nccl_board.h"
#include "runtime/simt/queue.h"

namespace taper::simt {

namespace {

// The first error of several calls.
ncclResult_t first_of(std::initializer_list<ncclResult_t> results) {
  for (const ncclResult_t result : results)
    if (result != ncclSuccess) return result;
  return ncclSuccess;
}

ncclResult_t nccl_of(cudaError_t error) {
  return error == cudaSuccess ? ncclSuccess : refuse(ncclUnhandledCudaError, cudaGetErrorString(error));
}

ncclResult_t gather(const float* from, float* parts, size_t count, ncclComm_t comm, cudaStream_t stream) {
  int ranks = 0;
  ncclResult_t result = first_of({ncclCommCount(comm, &ranks), ncclGroupStart()});
  for (int peer = 0; peer < ranks && result == ncclSuccess; ++peer)
    result = first_of(
        {ncclSend(from, count, ncclFloat32, peer, comm, stream),
         ncclRecv(parts + static_cast<size_t>(peer) * count, count, ncclFloat32, peer, comm, stream)});
  return first_of({result, ncclGroupEnd()});
}

}  // namespace

}  // namespace taper::simt

using namespace taper::simt;

extern "C" ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type,
                                      ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  if (type != ncclFloat32 || op != ncclSum)
    return refuse(ncclInvalidArgument, "the simulated NCCL knows sums of float32 only");
  int ranks = 0;
  ncclCommCount(comm, &ranks);
  void* memory = nullptr;
  const size_t bytes = std::max<size_t>(1, static_cast<size_t>(ranks) * count) * sizeof(float);
  if (ncclResult_t result = nccl_of(cudaMallocAsync(&memory, bytes, stream)); result != ncclSuccess)
    return result;
  auto* parts = static_cast<float*>(memory);
  auto* sum = static_cast<float*>(to);
  const ncclResult_t gathered = gather(static_cast<const float*>(from), parts, count, comm, stream);
  const auto add = [=]() -> std::string {
    std::copy_n(parts, count, sum);
    for (int rank = 1; rank < ranks; ++rank)
      for (size_t i = 0; i < count; ++i) sum[i] += parts[static_cast<size_t>(rank) * count + i];
    return "";
  };
  return first_of({gathered, gathered == ncclSuccess ? nccl_of(submit(stream, add)) : ncclSuccess,
                   nccl_of(cudaFreeAsync(memory, stream))});
}
