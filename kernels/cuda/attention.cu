// Attention's members of the CUDA backend: what is refused, and which kernels serve what
// (attention_tensor.cuh and attention_plain.cuh tell how they work; kernels/attention.h has the formulas).
//
//   type   head size                      kernels
//   bf16   32, 64, 128, 16-byte aligned   attention_*_tensor.cu: tensor cores, P and dS rounded to bf16
//   any    1 .. 256                       attention_*_plain.cu: f32 multiplications throughout
//
// The backward is three launches: delta = sum do o for each token and head, then dq (a pass over keys for
// each tile of queries), then dk and dv (a pass over queries for each tile of keys). Every output element is
// summed by one thread in a fixed order: no atomics, the same bits every time.

#include <cmath>
#include <limits>

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/cuda.h"
#include "runtime/cuda/launch.h"

namespace taper {

using namespace cuda;

namespace {

constexpr int64_t kLargestHead = 256, kMostHeads = 65535;
constexpr int kThreads = 256;

bool on_tensor_cores(const AttentionShape& shape, DType type, bool aligned) {
  const int64_t size = shape.head_size;
  return type == DType::bf16 && (size == 32 || size == 64 || size == 128) && aligned;
}

/// delta[head, token] = sum do o, a warp each.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    delta_kernel(int64_t tokens, int64_t heads, int64_t head_size, const T* d_o, const T* o, float* delta) {
  const int64_t row = thread_number() / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (row >= tokens * heads) return;
  float sum = 0;
  for (int64_t i = row * head_size + lane; i < (row + 1) * head_size; i += kWarp)
    sum += to_float(d_o[i]) * to_float(o[i]);
  sum = warp_reduce(sum, Sum{});
  if (lane == 0) delta[row % heads * tokens + row / heads] = sum;
}

}  // namespace

AttentionView cuda::attention_view(const AttentionShape& shape, const char* op) {
  TAPER_CHECK(shape.dropout >= 0 && shape.dropout < 1, "{} with dropout {}", op, shape.dropout);
  if (shape.head_size < 1 || shape.head_size > kLargestHead)
    throw Failure("{} on CUDA takes head sizes from 1 to {}, not {}: the nearest is {}", op, kLargestHead,
                  shape.head_size, shape.head_size < 1 ? 1 : kLargestHead);
  if (shape.heads < 1 || shape.heads > kMostHeads)
    throw Failure("{} on CUDA takes from 1 to {} heads, not {}: the nearest is {}", op, kMostHeads,
                  shape.heads, shape.heads < 1 ? 1 : kMostHeads);
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (shape.tokens < 0 || shape.sequences < 0 || shape.tokens > kMost - shape.sequences)
    throw Failure("{} on CUDA takes {} tokens and sequences together, not {} and {}", op, kMost, shape.tokens,
                  shape.sequences);
  return {.tokens = shape.tokens,
          .heads = shape.heads,
          .head_size = shape.head_size,
          .sequences = static_cast<int32_t>(shape.sequences),
          .offsets = shape.offsets,
          .sample_ids = shape.sample_ids,
          .scale = static_cast<float>(shape.scale),
          .scale_log2 = static_cast<float>(shape.scale * 1.4426950408889634),
          .causal = shape.causal,
          .threshold = static_cast<uint32_t>(std::ceil(shape.dropout * 0x1p24)),
          .kept = static_cast<float>(1 / (1 - shape.dropout)),
          .key = shape.key};
}

void CudaBackend::attention_forward(Stream& stream, const AttentionShape& shape, DType type, const void* qkv,
                                    void* o, void* logsumexp) {
  const AttentionView view = attention_view(shape, "attention_forward");
  if (shape.tokens == 0) return;
  CudaStream& queue = cuda_stream(stream);
  auto* lse = static_cast<float*>(logsumexp);
  if (on_tensor_cores(shape, type, aligned(qkv, o)))
    return attention_forward_tensor(queue, shape, view, static_cast<const Bf16*>(qkv), static_cast<Bf16*>(o),
                                    lse);
  dispatch(type, "attention_forward", [&](auto zero) {
    using T = decltype(zero);
    attention_forward_plain(queue, shape, view, static_cast<const T*>(qkv), static_cast<T*>(o), lse);
  });
}

void CudaBackend::attention_backward(Stream& stream, const AttentionShape& shape, DType type, const void* d_o,
                                     const void* qkv, const void* o, const void* logsumexp, void* dqkv) {
  const AttentionView view = attention_view(shape, "attention_backward");
  if (shape.tokens == 0) return;
  CudaStream& queue = cuda_stream(stream);
  const int64_t rows = shape.tokens * shape.heads;
  const auto* lse = static_cast<const float*>(logsumexp);
  auto* delta = static_cast<float*>(queue.scratch(rows * static_cast<int64_t>(sizeof(float))));
  dispatch(type, "attention_backward", [&](auto zero) {
    using T = decltype(zero);
    const auto *gradient = static_cast<const T*>(d_o), *in = static_cast<const T*>(qkv);
    auto* out = static_cast<T*>(dqkv);
    launch(delta_kernel<T>, blocks_for(rows, kThreads / kWarp), kThreads, 0, queue.handle(), shape.tokens,
           shape.heads, shape.head_size, gradient, static_cast<const T*>(o), delta);
    if constexpr (std::is_same_v<T, Bf16>)
      if (on_tensor_cores(shape, type, aligned(d_o, qkv, dqkv)))
        return attention_backward_tensor(queue, shape, view, gradient, in, lse, delta, out);
    attention_backward_plain(queue, shape, view, gradient, in, lse, delta, out);
  });
}

}  // namespace taper
