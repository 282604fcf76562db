#pragma once
// What the kernels share: element types, vector loads and stores, reductions in a fixed order.
// Random numbers are runtime/philox.h's, which is device code as it stands.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "runtime/dtype.h"
#include "runtime/error.h"

namespace taper::cuda {

/// bfloat16 in kernels: the same 16 bits as taper::bf16.
using Bf16 = __nv_bfloat16;

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFF;
/// Elements of T in 16 bytes, the most that one thread moves at once.
template <typename T>
inline constexpr int kPerVector = 16 / static_cast<int>(sizeof(T));
/// Elements of a thread that moves both T and U. With as many as 16 bytes have of the smaller, those of the
/// larger would take two requests of a warp, each of which touches every sector and moves half of it.
template <typename T, typename U>
inline constexpr int kPerVectorOfBoth = kPerVector<T> < kPerVector<U> ? kPerVector<T> : kPerVector<U>;

/// Calls use(T{}) with the device's type for `type`; `op` is named in the Failure for a type that kernels do
/// not compute in.
template <typename Use>
void dispatch(DType type, const char* op, Use&& use) {
  switch (type) {
    case DType::f32:
      return use(float{});
    case DType::bf16:
      return use(Bf16{});
    default:
      throw Failure("{} on CUDA computes in f32 and bf16, not in {}", op, name(type));
  }
}

/// Whether all of these allow 16 bytes to be moved at once.
template <typename... Pointers>
bool aligned(const Pointers*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

/// This thread's number in a grid of one dimension.
__device__ __forceinline__ int64_t thread_number() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }

/// Between element types; to bf16 rounded to nearest even.
template <typename To>
__device__ __forceinline__ To convert(float value) {
  return static_cast<To>(value);
}
template <>
__device__ __forceinline__ Bf16 convert<Bf16>(float value) {
  return __float2bfloat16_rn(value);
}
__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(Bf16 value) { return __bfloat162float(value); }

/// kCount neighbours as they lie in memory, moved at once.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
};

/// Loads values[i] = from[i] for i < count, kWidth at most; the rest stay as they are. `vectors`: `from` is
/// aligned to 16 bytes (or to kWidth elements, if that is less).
template <int kWidth, typename T>
__device__ __forceinline__ void load(T (&values)[kWidth], const T* from, int64_t count, bool vectors) {
  constexpr int kPack = kWidth < kPerVector<T> ? kWidth : kPerVector<T>;
  if (vectors && count >= kWidth) {
#pragma unroll
    for (int i = 0; i < kWidth; i += kPack) {
      const auto pack = *reinterpret_cast<const Pack<T, kPack>*>(from + i);
#pragma unroll
      for (int j = 0; j < kPack; ++j) values[i + j] = pack.values[j];
    }
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; ++i)
      if (i < count) values[i] = from[i];
  }
}

/// The other way: to[i] = values[i] for i < count, kWidth at most.
template <int kWidth, typename T>
__device__ __forceinline__ void store(const T (&values)[kWidth], T* to, int64_t count, bool vectors) {
  constexpr int kPack = kWidth < kPerVector<T> ? kWidth : kPerVector<T>;
  if (vectors && count >= kWidth) {
#pragma unroll
    for (int i = 0; i < kWidth; i += kPack) {
      Pack<T, kPack> pack;
#pragma unroll
      for (int j = 0; j < kPack; ++j) pack.values[j] = values[i + j];
      *reinterpret_cast<Pack<T, kPack>*>(to + i) = pack;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; ++i)
      if (i < count) to[i] = values[i];
  }
}

/// Reductions' operations. Max keeps a NaN, which fmaxf drops.
struct Sum {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b || a != a ? a : b;
  }
};

/// The 32 lanes' values combined, in every lane the same bits: ((0 + 16) + (8 + 24)) + ... All lanes call it.
template <typename T, typename Op>
__device__ __forceinline__ T warp_reduce(T value, Op op) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    value = op(value, __shfl_xor_sync(kAllLanes, value, distance));
  return value;
}

/// All threads' values combined, in every thread the same bits: warps first, then the warps' results as
/// lanes. All threads of the block call it, and whole warps of them: blockDim is a multiple of 32 in x, or
/// x times y is where y is used. `identity` changes nothing: 0 for Sum, -infinity for Max.
template <typename T, typename Op>
__device__ __forceinline__ T block_reduce(T value, Op op, T identity) {
  __shared__ T of_warp[kWarp];
  const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
  const int warps = static_cast<int>(blockDim.x * blockDim.y) / kWarp;
  const int lane = thread % kWarp;
  value = warp_reduce(value, op);
  if (lane == 0) of_warp[thread / kWarp] = value;
  __syncthreads();
  value = warp_reduce(lane < warps ? of_warp[lane] : identity, op);
  __syncthreads();  // the next call writes of_warp
  return value;
}

}  // namespace taper::cuda
