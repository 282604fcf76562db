// The members of CudaBackend that no family has written yet: each says so. Whoever writes a family deletes
// its lines here; the file goes with the last of them.

#include "kernels/cuda/cuda.h"
#include "runtime/error.h"

namespace taper {

namespace {

[[noreturn]] void missing(const char* op) { throw Failure("{} is not written for CUDA yet", op); }

}  // namespace

void CudaBackend::attention_forward(Stream&, const AttentionShape&, DType, const void*, void*, void*) {
  missing("attention_forward");
}
void CudaBackend::attention_backward(Stream&, const AttentionShape&, DType, const void*, const void*,
                                     const void*, const void*, void*) {
  missing("attention_backward");
}
void CudaBackend::softmax(Stream&, int64_t, int64_t, DType, bool, const void*, void*) { missing("softmax"); }
void CudaBackend::softmax_backward(Stream&, int64_t, int64_t, DType, bool, const void*, const void*, void*) {
  missing("softmax_backward");
}
void CudaBackend::embedding_forward(Stream&, int64_t, int64_t, DType, const int32_t*, const void*, void*) {
  missing("embedding_forward");
}
void CudaBackend::embedding_backward(Stream&, int64_t, int64_t, int64_t, DType, const int32_t*, const void*,
                                     void*) {
  missing("embedding_backward");
}

}  // namespace taper
