#pragma once
// Convolution as a matrix product that is never laid out (implicit GEMM): which pixel and channel each
// element of its matrices is.
//
// The forward pass and the data gradient are the same product, out (pixels x columns) = gathered (pixels x
// depth) filter (depth x columns), one for each group. A row is a pixel of the image that is written, a
// column a channel of it; the depth runs over (tap, tap, channel) of the image that is read. The data
// gradient of a stride falls into stride x stride phases: pixels of dx whose coordinates leave the same
// remainders meet the same taps of the filter and no others. With a product of its own for each phase, no
// zeros are multiplied but those of the padding.
//
// In each phase and along each axis, pixel i and tap t read coordinate first + i step + t tap_step:
//   forward        i is the output pixel: -padding + i stride + t dilation;
//   data gradient  i stride + phase is the input pixel; its taps are the r with r dilation = phase + padding
//                  (mod stride), that is r = tap_start + t stride / g for g = gcd(stride, dilation), and
//                  they read (phase + padding - tap_start dilation) / stride + i - t dilation / g.

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ptx.cuh"

namespace taper::cuda {

/// One phase along one axis.
struct ConvAxis {
  int pixels, first, step;        ///< rows of the product
  int taps, tap_step;             ///< its depth
  int filter_start, filter_step;  ///< tap t is filter coordinate filter_start + t filter_step
  int out_start, out_step;        ///< pixel i is written at out_start + i out_step
};

/// The forward pass, or the data gradient (`backward`): reads an image [n, in_h, in_w, groups depth], writes
/// one [n, out_h, out_w, groups columns].
struct ConvProduct {
  int64_t n;
  int in_h, in_w, depth;
  int out_h, out_w, columns;
  int r, s, stride, padding, dilation, groups;
  int common;  ///< greatest common divisor of stride and dilation
  bool backward;

  constexpr int phases() const { return backward ? stride * stride : 1; }
  constexpr ConvAxis axis_h(int phase) const { return axis(out_h, r, backward ? phase / stride : 0); }
  constexpr ConvAxis axis_w(int phase) const { return axis(out_w, s, backward ? phase % stride : 0); }
  /// Elements of the product's depth in a phase.
  constexpr int length(int phase) const { return axis_h(phase).taps * axis_w(phase).taps * depth; }

 private:
  constexpr ConvAxis axis(int out_extent, int filter_extent, int phase) const {
    if (!backward) return {out_extent, -padding, stride, filter_extent, dilation, 0, 1, 0, 1};
    const int filter_step = stride / common;
    int start = 0;
    while (start < filter_step && (phase + padding - start * dilation) % stride != 0) ++start;
    const bool met = start < filter_step && start < filter_extent;
    return {.pixels = phase < out_extent ? (out_extent - phase - 1) / stride + 1 : 0,
            .first = met ? (phase + padding - start * dilation) / stride : 0,
            .step = 1,
            .taps = met ? (filter_extent - start - 1) / filter_step + 1 : 0,
            .tap_step = -(dilation / common),
            .filter_start = start,
            .filter_step = filter_step,
            .out_start = phase,
            .out_step = stride};
  }
};

/// The packed filter of T is, for each phase, [groups, (tap, tap, channel), pitch]: the product's right
/// matrix, each row filled up with zeros to 16 bytes.
template <typename T>
constexpr int packed_pitch(const ConvProduct& p) {
  return (p.columns + kPerVector<T> - 1) / kPerVector<T> * kPerVector<T>;
}
/// Where a phase of the packed filter begins, in elements; for phase phases(), the filter's size.
template <typename T>
constexpr int64_t packed_start(const ConvProduct& p, int phase) {
  int64_t rows = 0;
  for (int i = 0; i < phase; ++i) rows += p.length(i);
  return rows * p.groups * packed_pitch<T>(p);
}

/// A number of three digits, such as (tap, tap, channel) or (image, row, column), that is added to without
/// divisions.
struct Counter {
  int high, middle, low;

  __device__ Counter(int64_t number, int middle_radix, int low_radix)
      : high(static_cast<int>(number / (int64_t{middle_radix} * low_radix))),
        middle(static_cast<int>(number % (int64_t{middle_radix} * low_radix)) / low_radix),
        low(static_cast<int>(number % (int64_t{middle_radix} * low_radix)) % low_radix) {}
  __device__ __forceinline__ void add(const Counter& other, int middle_radix, int low_radix) {
    high += other.high;
    middle += other.middle;
    low += other.low;
    if (low >= low_radix) {
      low -= low_radix;
      ++middle;
    }
    if (middle >= middle_radix) {
      middle -= middle_radix;
      ++high;
    }
  }
};

/// Where a pixel of the product reads: the element of channel 0 of the group at tap (0, 0), which may lie
/// outside of the image, and its coordinates. A pixel that does not exist reads outside with every tap. Moved
/// at once.
struct alignas(16) ReadPlace {
  int64_t element;
  int h, w;
};
inline constexpr int kOutside = -(1 << 30);
__device__ __forceinline__ bool inside(int coordinate, int extent) {
  return static_cast<unsigned>(coordinate) < static_cast<unsigned>(extent);
}

/// Blocks that a multiprocessor's registers are shared out to: as many as have 512 threads, where that makes
/// nothing spill to memory.
template <typename Tile, int kUnit>
inline constexpr int kBlocksAtOnce = (std::is_same_v<typename Tile::Element, float> ? Tile::kThreads == 128
                                                                                    : kUnit > 1)
                                         ? 512 / Tile::kThreads
                                         : 1;

/// Where kUnit elements come from; zeros where they are not valid.
template <typename T>
struct Source {
  const T* from;
  bool valid;
};

/// Copies source(0) to source(kEach - 1), called in this order, to to(0) to to(kEach - 1) in shared memory;
/// what is less than 4 bytes by way of registers, all loads before all stores so that they wait together.
template <int kEach, int kUnit, typename T, typename To, typename From>
__device__ __forceinline__ void copy_units(const To& to, const From& source) {
  constexpr int kBytes = kUnit * static_cast<int>(sizeof(T));
  if constexpr (kBytes >= 4) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const Source<T> unit = source(i);
      cp_async<kBytes>(to(i), unit.from, unit.valid);
    }
  } else {
    static_assert(kUnit == 1);
    T values[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const Source<T> unit = source(i);
      values[i] = unit.valid ? *unit.from : convert<T>(0.0f);
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) *to(i) = values[i];
  }
}

}  // namespace taper::cuda
