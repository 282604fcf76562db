#include "runtime/simt/error.h"

#include <cuda_runtime_api.h>

#include <utility>

namespace taper::simt {

namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local std::string last_failure = "a kernel failed";

}  // namespace

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

cudaError_t remember_failure(const std::string& message) {
  last_failure = message;
  return remember(cudaErrorLaunchFailure);
}

}  // namespace taper::simt

extern "C" {

cudaError_t cudaGetLastError() { return std::exchange(taper::simt::last_error, cudaSuccess); }

cudaError_t cudaPeekAtLastError() { return taper::simt::last_error; }

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorNotSupported:
      return "cudaErrorNotSupported";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureUnjoined:
      return "cudaErrorStreamCaptureUnjoined";
    case cudaErrorIllegalState:
      return "cudaErrorIllegalState";
    default:
      return "an error that the simulated device never gives";
  }
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorNotSupported:
      return "operation not supported by the simulated device";
    case cudaErrorLaunchFailure:
      return taper::simt::last_failure.c_str();
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureUnjoined:
      return "capture was not ended in the same stream as it began";
    case cudaErrorIllegalState:
      return "the operation is not allowed in this state";
    default:
      return cudaGetErrorName(error);
  }
}
}
