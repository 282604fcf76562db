// Batch normalisation at the speed of memory: forward reads x twice (once if it stays in the cache), backward
// reads dy, x and y once for the sums and what it needs of them once more for dx.

#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/batch_norm.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <cmath>

#include "kernels/cpu/columns-inl.h"

HWY_BEFORE_NAMESPACE();
namespace taper::HWY_NAMESPACE {
namespace {

// Arrays of one float per element of a wide row, and the sums, laid out in the stream's scratch.
struct Workspace {
  ColumnPlan plan;
  double* totals;
  void* sums_scratch;
  float* tiles;

  Workspace(CpuStream& stream, int64_t rows, int64_t channels) : plan{rows, channels} {
    int64_t totals_bytes = 2 * channels * int64_t{sizeof(double)};
    auto* base = static_cast<char*>(
        stream.scratch(totals_bytes + plan.bytes(2) + 3 * plan.width * int64_t{sizeof(float)}));
    totals = reinterpret_cast<double*>(base);
    sums_scratch = base + totals_bytes;
    tiles = reinterpret_cast<float*>(base + totals_bytes + plan.bytes(2));
  }
  float* tile(int i) { return tiles + i * plan.width; }
  // Repeats what stands for the first wide row's first channels.
  void repeat(float* tile) const {
    for (int64_t j = plan.columns; j < plan.width; ++j) tile[j] = tile[j - plan.columns];
  }
};

// sum += x - pivot, square += (x - pivot)^2.
template <typename T>
void add_moments(const T* x, int64_t rows, int64_t width, const float* pivot, float* sum, float* square) {
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4, x += 4 * width)
    for_columns(width, [=](auto get, int64_t j) HWY_ATTR {
      V centre = get(pivot + j);
      V a = hn::Sub(get(x + j), centre), b = hn::Sub(get(x + width + j), centre);
      V c = hn::Sub(get(x + 2 * width + j), centre), d = hn::Sub(get(x + 3 * width + j), centre);
      get.put(hn::Add(get(sum + j), hn::Add(hn::Add(a, b), hn::Add(c, d))), sum + j);
      V squares = hn::Add(hn::MulAdd(a, a, hn::Mul(b, b)), hn::MulAdd(c, c, hn::Mul(d, d)));
      get.put(hn::Add(get(square + j), squares), square + j);
    });
  for (; row < rows; ++row, x += width)
    for_columns(width, [=](auto get, int64_t j) HWY_ATTR {
      V a = hn::Sub(get(x + j), get(pivot + j));
      get.put(hn::Add(get(sum + j), a), sum + j);
      get.put(hn::MulAdd(a, a, get(square + j)), square + j);
    });
}

// y = relu((x - pivot) scale + shift + residual).
template <typename T, bool kRelu, bool kResidual>
void normalise(int64_t rows, int64_t width, const float* pivot, const float* scale, const float* shift,
               const T* x, const T* residual, T* y) {
  for (int64_t row = 0; row < rows; ++row, x += width, residual += kResidual ? width : 0, y += width)
    for_columns(width, [=](auto get, int64_t j) HWY_ATTR {
      V v = hn::MulAdd(hn::Sub(get(x + j), get(pivot + j)), get(scale + j), get(shift + j));
      if constexpr (kResidual) v = hn::Add(v, get(residual + j));
      if constexpr (kRelu)
        v = hn::IfThenElse(hn::Lt(v, hn::Zero(kFloats)), hn::Zero(kFloats), v);  // keeps NaN
      get.put(v, y + j);
    });
}

template <typename T>
void normalise_all(int threads, const ColumnPlan& plan, bool with_relu, const float* pivot,
                   const float* scale, const float* shift, const T* x, const T* residual, T* y) {
  plan.for_pieces_backwards(threads, [&](int64_t offset, int64_t rows, int64_t width) {
    const T* r = residual == nullptr ? nullptr : residual + offset;
    auto run = [&](auto relu_too, auto residual_too) {
      normalise<T, relu_too(), residual_too()>(rows, width, pivot, scale, shift, x + offset, r, y + offset);
    };
    if (with_relu)
      residual ? run(std::true_type(), std::true_type()) : run(std::true_type(), std::false_type());
    else
      residual ? run(std::false_type(), std::true_type()) : run(std::false_type(), std::false_type());
  });
}

void forward_loops(CpuStream& stream, const BatchNormShape& shape, DType type, const void* x,
                   const float* gamma, const float* beta, const void* residual, double eps, void* y,
                   float* mean, float* rstd, float* variance) {
  Workspace work(stream, shape.rows, shape.channels);
  float *pivot = work.tile(0), *scale = work.tile(1), *shift = work.tile(2);
  with_type(type, [&]<typename T>(T) {
    auto* from = static_cast<const T*>(x);
    for (int64_t j = 0; j < shape.channels; ++j) pivot[j] = to_float(from[j]);
    work.repeat(pivot);
    column_sums<2>(work.plan, stream.threads(), work.sums_scratch, work.totals,
                   [&](int64_t offset, int64_t rows, int64_t width, float* sums) {
                     add_moments(from + offset, rows, width, pivot, sums, sums + width);
                   });
    double n = static_cast<double>(shape.rows);
    for (int64_t j = 0; j < shape.channels; ++j) {
      double centre = work.totals[j] / n;
      double biased = work.totals[shape.channels + j] / n - centre * centre;
      if (biased < 0) biased = 0;  // rounding; NaN stays
      double inverse = 1 / std::sqrt(biased + eps);
      mean[j] = static_cast<float>(static_cast<double>(pivot[j]) + centre);
      rstd[j] = static_cast<float>(inverse);
      variance[j] = static_cast<float>(biased * n / (n - 1));
      double a = static_cast<double>(gamma[j]) * inverse;
      scale[j] = static_cast<float>(a);
      shift[j] = static_cast<float>(static_cast<double>(beta[j]) - centre * a);
    }
    work.repeat(scale);
    work.repeat(shift);
    normalise_all(stream.threads(), work.plan, shape.relu, pivot, scale, shift, from,
                  static_cast<const T*>(residual), static_cast<T*>(y));
  });
}

void inference_loops(CpuStream& stream, const BatchNormShape& shape, DType type, const void* x,
                     const float* scale, const float* shift, const void* residual, void* y) {
  Workspace work(stream, shape.rows, shape.channels);
  std::fill(work.tile(0), work.tile(1), 0.0f);
  std::copy(scale, scale + shape.channels, work.tile(1));
  std::copy(shift, shift + shape.channels, work.tile(2));
  work.repeat(work.tile(1));
  work.repeat(work.tile(2));
  with_type(type, [&]<typename T>(T) {
    normalise_all(stream.threads(), work.plan, shape.relu, work.tile(0), work.tile(1), work.tile(2),
                  static_cast<const T*>(x), static_cast<const T*>(residual), static_cast<T*>(y));
  });
}

}  // namespace
}  // namespace taper::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace taper {
namespace {
HWY_EXPORT(forward_loops);
HWY_EXPORT(inference_loops);
}  // namespace

void CpuBackend::batch_norm_forward(Stream& stream, const BatchNormShape& shape, DType type, const void* x,
                                    const void* gamma, const void* beta, const void* residual, double eps,
                                    void* y, void* mean, void* rstd, void* variance) {
  TAPER_CHECK(shape.rows >= 2 && shape.channels > 0,
              "the statistics of {} rows of {} channels: a batch of one pixel has no variance", shape.rows,
              shape.channels);
  HWY_DYNAMIC_DISPATCH(forward_loops)
  (cpu_stream(stream), shape, type, x, static_cast<const float*>(gamma), static_cast<const float*>(beta),
   residual, eps, y, static_cast<float*>(mean), static_cast<float*>(rstd), static_cast<float*>(variance));
}

void CpuBackend::batch_norm_inference(Stream& stream, const BatchNormShape& shape, DType type, const void* x,
                                      const void* scale, const void* shift, const void* residual, void* y) {
  HWY_DYNAMIC_DISPATCH(inference_loops)
  (cpu_stream(stream), shape, type, x, static_cast<const float*>(scale), static_cast<const float*>(shift),
   residual, y);
}

}  // namespace taper
#endif
