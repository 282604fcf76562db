#include "runtime/simt/warp_matrix.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "runtime/simt/check/checker.h"
#include "runtime/simt/worker.h"

namespace taper::simt {

namespace {

constexpr uint32_t kFullWarp = 0xFFFFFFFF;

struct Rows {
  uint32_t* registers;
  const void* row;
  int matrices;
  bool transposed;
};

const char* load_all(void* const (&operands)[kWarp], uint32_t) {
  auto own = [&](int lane) -> Rows& { return *static_cast<Rows*>(operands[lane]); };
  for (int i = 0; i < own(0).matrices; ++i) {
    uint16_t matrix[8][8];
    for (int row = 0; row < 8; ++row) {
      const void* address = own(8 * i + row).row;
      if (reinterpret_cast<uintptr_t>(address) % 16 != 0)
        return "ldmatrix of a row that is not aligned to 16 bytes";
      std::memcpy(matrix[row], address, sizeof matrix[row]);
    }
    for (int lane = 0; lane < kWarp; ++lane) {
      int row = lane / 4, column = lane % 4 * 2;
      uint32_t low = own(lane).transposed ? matrix[column][row] : matrix[row][column];
      uint32_t high = own(lane).transposed ? matrix[column + 1][row] : matrix[row][column + 1];
      own(lane).registers[i] = low | high << 16;
    }
  }
  return nullptr;
}

struct Tiles {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
  int m, n;
};

float low_bf16(uint32_t pair) { return std::bit_cast<float>(pair << 16); }
float high_bf16(uint32_t pair) { return std::bit_cast<float>(pair & 0xFFFF0000); }
float tf32(uint32_t bits) { return std::bit_cast<float>(bits & 0xFFFFE000); }

// The elements of the fragments that lane (group, member) = (lane / 4, lane % 4) holds, by the PTX ISA's
// tables.
struct Bf16 {
  static constexpr int kDepth = 16;
  static void unpack_a(const uint32_t* a, int group, int member, float (&tile)[16][kDepth]) {
    for (int i = 0; i < 4; ++i) {
      int row = group + i % 2 * 8, k = member * 2 + i / 2 * 8;
      tile[row][k] = low_bf16(a[i]);
      tile[row][k + 1] = high_bf16(a[i]);
    }
  }
  static void unpack_b(const uint32_t* b, int group, int member, float (&tile)[kDepth][8]) {
    for (int i = 0; i < 2; ++i) {
      int k = member * 2 + i * 8;
      tile[k][group] = low_bf16(b[i]);
      tile[k + 1][group] = high_bf16(b[i]);
    }
  }
};

struct Tf32 {
  static constexpr int kDepth = 8;
  static void unpack_a(const uint32_t* a, int group, int member, float (&tile)[16][kDepth]) {
    for (int i = 0; i < 4; ++i) tile[group + i % 2 * 8][member + i / 2 * 4] = tf32(a[i]);
  }
  static void unpack_b(const uint32_t* b, int group, int member, float (&tile)[kDepth][8]) {
    for (int i = 0; i < 2; ++i) tile[member + i * 4][group] = tf32(b[i]);
  }
};

// d (16x8) += a (16xdepth) b (depthx8), eight columns at a time.
template <int kDepth>
[[gnu::always_inline]] inline void multiply_tile(float (&d)[16][8], const float (&a)[16][kDepth],
                                                 const float (&b)[kDepth][8]) {
  using Eight = float __attribute__((vector_size(32), aligned(4), may_alias));
  for (int row = 0; row < 16; ++row) {
    Eight sum = *reinterpret_cast<const Eight*>(d[row]);
    for (int k = 0; k < kDepth; ++k) sum += a[row][k] * *reinterpret_cast<const Eight*>(b[k]);
    *reinterpret_cast<Eight*>(d[row]) = sum;
  }
}

template <typename Format>
[[gnu::always_inline]] inline void multiply_tiles(void* const (&operands)[kWarp]) {
  auto own = [&](int lane) -> Tiles& { return *static_cast<Tiles*>(operands[lane]); };
  const int m = own(0).m, n = own(0).n;
  for (int j = 0; j < n; ++j) {
    float b[Format::kDepth][8];
    for (int lane = 0; lane < kWarp; ++lane) Format::unpack_b(own(lane).b + j * 2, lane / 4, lane % 4, b);
    for (int i = 0; i < m; ++i) {
      float a[16][Format::kDepth], d[16][8];
      for (int lane = 0; lane < kWarp; ++lane) {
        Format::unpack_a(own(lane).a + ptrdiff_t{4} * i, lane / 4, lane % 4, a);
        const float* part = own(lane).d + ptrdiff_t{4} * (i * n + j);
        const int row = lane / 4, column = lane % 4 * 2;
        std::memcpy(&d[row][column], part, 2 * sizeof(float));
        std::memcpy(&d[row + 8][column], part + 2, 2 * sizeof(float));
      }
      multiply_tile<Format::kDepth>(d, a, b);
      for (int lane = 0; lane < kWarp; ++lane) {
        float* part = own(lane).d + ptrdiff_t{4} * (i * n + j);
        const int row = lane / 4, column = lane % 4 * 2;
        std::memcpy(part, &d[row][column], 2 * sizeof(float));
        std::memcpy(part + 2, &d[row + 8][column], 2 * sizeof(float));
      }
    }
  }
}

template <typename Format>
[[gnu::target("avx2,fma")]] void multiply_tiles_avx2(void* const (&operands)[kWarp]) {
  multiply_tiles<Format>(operands);
}

template <typename Format>
const char* multiply_all(void* const (&operands)[kWarp], uint32_t) {
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_avx2)
    multiply_tiles_avx2<Format>(operands);
  else
    multiply_tiles<Format>(operands);
  return nullptr;
}

}  // namespace

void load_matrices(uint32_t* registers, int matrices, bool transposed, const void* shared_row, Where where) {
  Rows operands{registers, shared_row, matrices, transposed};
  Worker& worker = Worker::of_this_thread();
  if constexpr (kChecked)
    if (worker.lane() < 8 * matrices) Checker::instance().load_row(shared_row, where);
  worker.meet(kFullWarp, load_all, &operands, where);
}

uint32_t to_tf32(float x) {
  if (std::isnan(x)) return 0x7FFFFFFF;
  auto bits = std::bit_cast<uint32_t>(x);
  return std::isinf(x) ? bits : (bits + 0x1000) & 0xFFFFE000;
}

void multiply_bf16(float* d, const uint32_t* a, const uint32_t* b, int m, int n, Where where) {
  Tiles operands{d, a, b, m, n};
  Worker::of_this_thread().meet(kFullWarp, multiply_all<Bf16>, &operands, where);
}

void multiply_tf32(float* d, const uint32_t* a, const uint32_t* b, int m, int n, Where where) {
  Tiles operands{d, a, b, m, n};
  Worker::of_this_thread().meet(kFullWarp, multiply_all<Tf32>, &operands, where);
}

}  // namespace taper::simt
