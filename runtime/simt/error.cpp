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

namespace {

struct Description {
  cudaError_t error;
  const char *name, *text;
};

#define TAPER_SIMT_ERROR(error, text) \
  { error, #error, text }
constexpr Description kDescriptions[] = {
    TAPER_SIMT_ERROR(cudaSuccess, "no error"),
    TAPER_SIMT_ERROR(cudaErrorInvalidValue, "invalid argument"),
    TAPER_SIMT_ERROR(cudaErrorMemoryAllocation, "out of memory"),
    TAPER_SIMT_ERROR(cudaErrorInvalidConfiguration, "invalid configuration argument"),
    TAPER_SIMT_ERROR(cudaErrorInvalidDevice, "invalid device ordinal"),
    TAPER_SIMT_ERROR(cudaErrorInvalidResourceHandle, "invalid resource handle"),
    TAPER_SIMT_ERROR(cudaErrorNotReady, "device not ready"),
    TAPER_SIMT_ERROR(cudaErrorNotSupported, "operation not supported by the simulated device"),
    TAPER_SIMT_ERROR(cudaErrorLaunchFailure, "a kernel failed"),
    TAPER_SIMT_ERROR(cudaErrorIllegalState, "the operation is not allowed in this state"),
    TAPER_SIMT_ERROR(cudaErrorStreamCaptureUnsupported, "operation not permitted when a stream is capturing"),
    TAPER_SIMT_ERROR(cudaErrorStreamCaptureImplicit, "the null stream would wait for a capturing stream"),
    TAPER_SIMT_ERROR(cudaErrorStreamCaptureUnmatched, "this stream did not begin the capture"),
    TAPER_SIMT_ERROR(cudaErrorStreamCaptureUnjoined, "work of another stream was not joined to the capture"),
    TAPER_SIMT_ERROR(cudaErrorStreamCaptureIsolation,
                     "the capture would depend on work that is not captured"),
    TAPER_SIMT_ERROR(cudaErrorStreamCaptureMerge, "the operation would merge two captures"),
    TAPER_SIMT_ERROR(cudaErrorCapturedEvent, "the event was recorded in a capturing stream"),
};
#undef TAPER_SIMT_ERROR

const Description* find(cudaError_t error) {
  for (const Description& description : kDescriptions)
    if (description.error == error) return &description;
  return nullptr;
}

}  // namespace

extern "C" {

cudaError_t cudaGetLastError() { return std::exchange(taper::simt::last_error, cudaSuccess); }

cudaError_t cudaPeekAtLastError() { return taper::simt::last_error; }

const char* cudaGetErrorName(cudaError_t error) {
  const Description* description = find(error);
  return description == nullptr ? "an error that the simulated device never gives" : description->name;
}

const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorLaunchFailure) return taper::simt::last_failure.c_str();
  const Description* description = find(error);
  return description == nullptr ? cudaGetErrorName(error) : description->text;
}
}
