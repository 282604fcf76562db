#pragma once
// The instructions that CUDA C++ has no name for: asynchronous copies to shared memory, loads of matrix
// fragments, tensor-core products. Inline PTX on the device; runtime/simt's emulation where CUDA sources are
// compiled as C++. Both need compute capability 8.0 and follow the PTX ISA, whose section on warp-level
// matrix instructions has the layouts of the fragments. Every lane of the warp must call those that say
// "warp".

#include <cuda_runtime.h>

#include <cstdint>

#if defined(__CUDACC__)
#define TAPER_WHERE
#else
#include "runtime/simt/async_copy.h"
#include "runtime/simt/warp_matrix.h"
// The place of the call, for messages and counts by source line.
#define TAPER_WHERE , std::source_location where = std::source_location::current()
#endif

namespace taper {

#if defined(__CUDACC__)
__device__ inline uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
#endif

/// The shared memory whose size the launch gives, aligned to 128 bytes.
template <typename T>
__device__ inline T* dynamic_shared() {
#if defined(__CUDACC__)
  extern __shared__ __align__(128) unsigned char taper_dynamic_shared[];
  return reinterpret_cast<T*>(taper_dynamic_shared);
#else
  return static_cast<T*>(simt::dynamic_shared());
#endif
}

/// Begins to copy 4, 8 or 16 bytes, aligned to their size, to shared memory; writes zeros instead, and reads
/// nothing, where `valid` is false. What was copied is there for the calling thread after cp_async_wait, for
/// others after a barrier that follows it.
template <int kBytes>
__device__ inline void cp_async(void* shared, const void* global, bool valid TAPER_WHERE) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
#if defined(__CUDACC__)
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(shared_address(shared)), "l"(global),
                 "n"(kBytes), "r"(valid ? kBytes : 0)
                 : "memory");
#else
  simt::copy_async(shared, global, kBytes, valid, where);
#endif
}

/// Makes a group of the copies that the thread began since the last commit.
__device__ inline void cp_async_commit() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#else
  simt::commit_copies();
#endif
}

/// Waits until at most the latest kPending groups of the thread are not complete.
template <int kPending>
__device__ inline void cp_async_wait() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
#else
  simt::wait_for_copies(kPending);
#endif
}

/// Warp: loads four 8x8 matrices of 16-bit elements. Lane 8 i + j gives the address of row j of matrix i (16
/// bytes, aligned); r[i] of lane l receives elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of matrix i.
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row TAPER_WHERE) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
#else
  simt::load_matrices(r, 4, false, shared_row, where);
#endif
}

/// As ldmatrix_x4, each matrix transposed: r[i] of lane l receives column l / 4's elements of rows 2 (l % 4)
/// and 2 (l % 4) + 1.
__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row TAPER_WHERE) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared_row))
               : "memory");
#else
  simt::load_matrices(r, 4, true, shared_row, where);
#endif
}

/// Warp: as ldmatrix_x4 for two matrices, whose rows lanes 0 to 15 give.
__device__ inline void ldmatrix_x2(uint32_t (&r)[2], const void* shared_row TAPER_WHERE) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared_row))
               : "memory");
#else
  simt::load_matrices(r, 2, false, shared_row, where);
#endif
}

/// Warp: as ldmatrix_x4_trans for two matrices, whose rows lanes 0 to 15 give.
__device__ inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* shared_row TAPER_WHERE) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];\n"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared_row))
               : "memory");
#else
  simt::load_matrices(r, 2, true, shared_row, where);
#endif
}

/// `x` rounded to the ten mantissa bits of tf32, ties away from zero; the bits that mma_tf32 takes.
__device__ inline uint32_t to_tf32(float x) {
#if defined(__CUDACC__)
  uint32_t result;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(result) : "f"(x));
  return result;
#else
  return simt::to_tf32(x);
#endif
}

/// Warp: d[i][j] += a[i] b[j] for M x N tiles, each the product of a 16x16 tile of bf16 (row major fragments)
/// and a 16x8 one (column major), accumulated in f32. One call for all tiles is several times faster than one
/// for each where it is emulated, and the same on a device.
template <int M, int N>
__device__ inline void mma_bf16(float (&d)[M][N][4], const uint32_t (&a)[M][4],
                                const uint32_t (&b)[N][2] TAPER_WHERE) {
#if defined(__CUDACC__)
#pragma unroll
  for (int i = 0; i < M; ++i) {
#pragma unroll
    for (int j = 0; j < N; ++j)
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
          "{%0, %1, %2, %3};\n"
          : "+f"(d[i][j][0]), "+f"(d[i][j][1]), "+f"(d[i][j][2]), "+f"(d[i][j][3])
          : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][0]), "r"(b[j][1]));
  }
#else
  simt::multiply_bf16(&d[0][0][0], &a[0][0], &b[0][0], M, N, where);
#endif
}

/// Warp: d[i][j] += a[i] b[j], each the product of a 16x8 tile of tf32 (row major fragments) and an 8x8 one
/// (column major), accumulated in f32.
template <int M, int N>
__device__ inline void mma_tf32(float (&d)[M][N][4], const uint32_t (&a)[M][4],
                                const uint32_t (&b)[N][2] TAPER_WHERE) {
#if defined(__CUDACC__)
#pragma unroll
  for (int i = 0; i < M; ++i) {
#pragma unroll
    for (int j = 0; j < N; ++j)
      asm volatile(
          "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
          "{%0, %1, %2, %3};\n"
          : "+f"(d[i][j][0]), "+f"(d[i][j][1]), "+f"(d[i][j][2]), "+f"(d[i][j][3])
          : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][0]), "r"(b[j][1]));
  }
#else
  simt::multiply_tf32(&d[0][0][0], &a[0][0], &b[0][0], M, N, where);
#endif
}

/// Warp: one tile of mma_bf16.
__device__ inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] TAPER_WHERE) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  simt::multiply_bf16(d, a, b, 1, 1, where);
#endif
}

/// Warp: one tile of mma_tf32.
__device__ inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] TAPER_WHERE) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  simt::multiply_tf32(d, a, b, 1, 1, where);
#endif
}

}  // namespace taper
