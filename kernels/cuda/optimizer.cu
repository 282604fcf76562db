// Optimizers over flat buffers (kernels/optimizer.h has the rules), all tensors in one launch.
//
// A block updates a chunk of one segment, four neighbours to a thread; each element has one thread and one
// formula in f32, in the order of PyTorch's operations (torch/optim/sgd.py and adamw.py, the path without
// `fused`), so that the bits depend on nothing else. The sum of squares adds up each chunk in f64, then each
// segment's chunks, both in an order that the segment's size alone decides.

#include <cmath>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/segments.cuh"
#include "runtime/cuda/launch.h"

namespace taper {

using namespace cuda;

namespace {

/// `factor` is the weight decay.
struct SgdRule {
  static constexpr bool kTwoMoments = false;
  float gradient_scale, momentum, lr;
  bool nesterov;

  __device__ void operator()(float factor, float g, float& m, float&, float& p) const {
    g *= gradient_scale;
    if (factor != 0) g = fmaf(p, factor, g);
    m = momentum * m + g;
    const float direction = nesterov ? fmaf(m, momentum, g) : m;
    p = fmaf(direction, -lr, p);
  }
};

/// `factor` is what the decay leaves of a parameter.
struct AdamWRule {
  static constexpr bool kTwoMoments = true;
  float gradient_scale, beta1, beta2, rest1, rest2, eps;
  float correction2;  ///< sqrt(1 - beta2^step)
  float step_size;    ///< -lr / (1 - beta1^step)

  __device__ void operator()(float factor, float g, float& m, float& v, float& p) const {
    g *= gradient_scale;
    p *= factor;
    // torch's lerp counts from the nearer end.
    m = rest1 < 0.5f ? fmaf(rest1, g - m, m) : fmaf(-beta1, g - m, g);
    v = v * beta2 + rest2 * g * g;
    p += step_size * m / (sqrtf(v) / correction2 + eps);
  }
};

template <typename Table, typename Rule>
__global__ void __launch_bounds__(kSegmentThreads)
    update(const __grid_constant__ Table table, Rule rule, const float* gradient, float* first, float* second,
           float* parameter, bool vectors) {
  const Chunk chunk = own_chunk(table);
  const float factor = table.factor[chunk.segment];
  vectors = vectors && chunk.begin % 4 == 0;
  for_elements(chunk, [&](int64_t i, int64_t left) {
    float g[4] = {}, m[4] = {}, v[4] = {}, p[4] = {};
    load(g, gradient + i, left, vectors);
    load(m, first + i, left, vectors);
    if (Rule::kTwoMoments) load(v, second + i, left, vectors);
    load(p, parameter + i, left, vectors);
#pragma unroll
    for (int j = 0; j < 4; ++j) rule(factor, g[j], m[j], v[j], p[j]);
    store(m, first + i, left, vectors);
    if (Rule::kTwoMoments) store(v, second + i, left, vectors);
    store(p, parameter + i, left, vectors);
  });
}

template <typename Table>
__global__ void __launch_bounds__(kSegmentThreads)
    chunk_squares(const __grid_constant__ Table table, const float* x, double* squares, bool vectors) {
  const Chunk chunk = own_chunk(table);
  vectors = vectors && chunk.begin % 4 == 0;
  double sum = 0;
  for_elements(chunk, [&](int64_t i, int64_t left) {
    float values[4] = {};
    load(values, x + i, left, vectors);
#pragma unroll
    for (int j = 0; j < 4; ++j)
      sum = fma(static_cast<double>(values[j]), static_cast<double>(values[j]), sum);
  });
  sum = block_reduce(sum, Sum{}, 0.0);
  if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

/// A block to a segment.
template <typename Table>
__global__ void __launch_bounds__(kSegmentThreads)
    segment_squares(const __grid_constant__ Table table, const double* of_chunk, double* squares) {
  const int end = table.first_chunk[blockIdx.x + 1];
  double sum = 0;
  for (int i = table.first_chunk[blockIdx.x] + static_cast<int>(threadIdx.x); i < end; i += kSegmentThreads)
    sum += of_chunk[i];
  sum = block_reduce(sum, Sum{}, 0.0);
  if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

void require_f32(DType type) {
  TAPER_CHECK(type == DType::f32, "optimizers on CUDA work on f32, not on {}", taper::name(type));
}

template <typename Table, typename Rule>
void launch_update(Stream& stream, const Table& table, const Rule& rule, const void* gradient, void* first,
                   void* second, void* parameter) {
  launch(update<Table, Rule>, table.chunks(), kSegmentThreads, 0, cuda_stream(stream).handle(), table, rule,
         static_cast<const float*>(gradient), static_cast<float*>(first), static_cast<float*>(second),
         static_cast<float*>(parameter), aligned(gradient, first, second, parameter));
}

}  // namespace

void CudaBackend::sgd(Stream& stream, std::span<const Segment> segments, DType type, const Sgd& rule,
                      double gradient_scale, const void* gradient, void* momentum, void* parameter) {
  require_f32(type);
  const SgdRule narrow{static_cast<float>(gradient_scale), static_cast<float>(rule.momentum),
                       static_cast<float>(rule.lr), rule.nesterov};
  with_tables(
      segments, [](double decay) { return static_cast<float>(decay); },
      [&](const auto& table, int64_t) {
        launch_update(stream, table, narrow, gradient, momentum, nullptr, parameter);
      });
}

void CudaBackend::adamw(Stream& stream, std::span<const Segment> segments, DType type, const AdamW& rule,
                        double gradient_scale, const void* gradient, void* first_moment, void* second_moment,
                        void* parameter) {
  require_f32(type);
  const double correction1 = 1 - std::pow(rule.beta1, static_cast<double>(rule.step));
  const double correction2 = 1 - std::pow(rule.beta2, static_cast<double>(rule.step));
  const AdamWRule narrow{static_cast<float>(gradient_scale),
                         static_cast<float>(rule.beta1),
                         static_cast<float>(rule.beta2),
                         static_cast<float>(1 - rule.beta1),
                         static_cast<float>(1 - rule.beta2),
                         static_cast<float>(rule.eps),
                         static_cast<float>(std::sqrt(correction2)),
                         static_cast<float>(-rule.lr / correction1)};
  with_tables(
      segments, [&](double decay) { return static_cast<float>(1 - rule.lr * decay); },
      [&](const auto& table, int64_t) {
        launch_update(stream, table, narrow, gradient, first_moment, second_moment, parameter);
      });
}

void CudaBackend::sum_of_squares(Stream& stream, std::span<const Segment> segments, DType type, const void* x,
                                 double* squares) {
  require_f32(type);
  CudaStream& queue = cuda_stream(stream);
  with_tables(
      segments, [](double) { return 0.0f; },
      [&](const auto& table, int64_t first) {
        using Table = std::decay_t<decltype(table)>;
        auto* of_chunk = static_cast<double*>(queue.scratch(table.chunks() * int64_t{sizeof(double)}));
        launch(chunk_squares<Table>, table.chunks(), kSegmentThreads, 0, queue.handle(), table,
               static_cast<const float*>(x), of_chunk, aligned(x));
        launch(segment_squares<Table>, static_cast<unsigned>(table.count), kSegmentThreads, 0, queue.handle(),
               table, of_chunk, squares + first);
      });
}

}  // namespace taper
