// LAMB over flat buffers (kernels/optimizer.h has the rule), all tensors in three launches.
//
// The first updates the moments and leaves each chunk's squares of parameters and directions, summed in f64;
// the second adds them up for each segment and makes the step of it, lr times the trust ratio; the third
// takes the step, with the direction worked out again, from the same numbers to the same bits: that reads
// less than a stored one. Sums have an order that the segment's size alone decides.

#include <cmath>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/segments.cuh"
#include "runtime/cuda/launch.h"

namespace taper {

using namespace cuda;

namespace {

/// A segment's factor is its weight decay.
struct LambRule {
  float gradient_scale, beta1, beta2, rest1, rest2, eps;
  float scale1;       ///< 1 / (1 - beta1^step)
  float correction2;  ///< sqrt(1 - beta2^step)

  /// The moments as AdamW's.
  __device__ void update(float g, float& m, float& v) const {
    g *= gradient_scale;
    m = rest1 < 0.5f ? fmaf(rest1, g - m, m) : fmaf(-beta1, g - m, g);
    v = v * beta2 + rest2 * g * g;
  }
  __device__ float direction(float decay, float m, float v, float p) const {
    return fmaf(p, decay, scale1 * m / (sqrtf(v) / correction2 + eps));
  }
};

/// squares: [chunks, 2], of the parameters and of the directions.
template <typename Table>
__global__ void __launch_bounds__(kSegmentThreads)
    lamb_moments(const __grid_constant__ Table table, LambRule rule, const float* gradient, float* first,
                 float* second, const float* parameter, double* squares, bool vectors) {
  const Chunk chunk = own_chunk(table);
  const float decay = table.factor[chunk.segment];
  vectors = vectors && chunk.begin % 4 == 0;
  double of_parameters = 0, of_directions = 0;
  for_elements(chunk, [&](int64_t i, int64_t left) {
    float g[4] = {}, m[4] = {}, v[4] = {}, p[4] = {};
    load(g, gradient + i, left, vectors);
    load(m, first + i, left, vectors);
    load(v, second + i, left, vectors);
    load(p, parameter + i, left, vectors);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      rule.update(g[j], m[j], v[j]);
      const auto from = static_cast<double>(p[j]);
      const auto step = static_cast<double>(rule.direction(decay, m[j], v[j], p[j]));
      of_parameters = fma(from, from, of_parameters);
      if (j < left) of_directions = fma(step, step, of_directions);  // 0 / 0 beyond, where eps is 0
    }
    store(m, first + i, left, vectors);
    store(v, second + i, left, vectors);
  });
  of_parameters = block_reduce(of_parameters, Sum{}, 0.0);
  of_directions = block_reduce(of_directions, Sum{}, 0.0);
  if (threadIdx.x > 0) return;
  const double both[2] = {of_parameters, of_directions};
  store(both, squares + 2 * int64_t{blockIdx.x}, 2, true);
}

/// A block to a segment: steps[segment] = lr times its trust ratio.
template <typename Table>
__global__ void __launch_bounds__(kSegmentThreads)
    lamb_steps(const __grid_constant__ Table table, double lr, const double* squares, float* steps) {
  const int64_t end = table.first_chunk[blockIdx.x + 1];
  double of_parameters = 0, of_directions = 0;
  for (int64_t i = table.first_chunk[blockIdx.x] + int64_t{threadIdx.x}; i < end; i += kSegmentThreads) {
    double both[2];
    load(both, squares + 2 * i, 2, true);
    of_parameters += both[0];
    of_directions += both[1];
  }
  of_parameters = block_reduce(of_parameters, Sum{}, 0.0);
  of_directions = block_reduce(of_directions, Sum{}, 0.0);
  if (threadIdx.x > 0) return;
  const double ratio =
      of_parameters == 0 || of_directions == 0 ? 1 : sqrt(of_parameters) / sqrt(of_directions);
  steps[blockIdx.x] = static_cast<float>(lr * ratio);
}

template <typename Table>
__global__ void __launch_bounds__(kSegmentThreads)
    lamb_update(const __grid_constant__ Table table, LambRule rule, const float* steps, const float* first,
                const float* second, float* parameter, bool vectors) {
  const Chunk chunk = own_chunk(table);
  const float decay = table.factor[chunk.segment], step = steps[chunk.segment];
  vectors = vectors && chunk.begin % 4 == 0;
  for_elements(chunk, [&](int64_t i, int64_t left) {
    float m[4] = {}, v[4] = {}, p[4] = {};
    load(m, first + i, left, vectors);
    load(v, second + i, left, vectors);
    load(p, parameter + i, left, vectors);
#pragma unroll
    for (int j = 0; j < 4; ++j) p[j] = fmaf(rule.direction(decay, m[j], v[j], p[j]), -step, p[j]);
    store(p, parameter + i, left, vectors);
  });
}

}  // namespace

void CudaBackend::lamb(Stream& stream, std::span<const Segment> segments, DType type, const Lamb& rule,
                       double gradient_scale, const void* gradient, void* first_moment, void* second_moment,
                       void* parameter) {
  TAPER_CHECK(type == DType::f32, "optimizers on CUDA work on f32, not on {}", taper::name(type));
  const double correction1 = 1 - std::pow(rule.beta1, static_cast<double>(rule.step));
  const double correction2 = 1 - std::pow(rule.beta2, static_cast<double>(rule.step));
  const LambRule narrow{static_cast<float>(gradient_scale),  static_cast<float>(rule.beta1),
                        static_cast<float>(rule.beta2),      static_cast<float>(1 - rule.beta1),
                        static_cast<float>(1 - rule.beta2),  static_cast<float>(rule.eps),
                        static_cast<float>(1 / correction1), static_cast<float>(std::sqrt(correction2))};
  CudaStream& queue = cuda_stream(stream);
  auto* first = static_cast<float*>(first_moment);
  auto* second = static_cast<float*>(second_moment);
  auto* p = static_cast<float*>(parameter);
  const bool vectors = aligned(gradient, first, second, p);
  with_tables(
      segments, [](double decay) { return static_cast<float>(decay); },
      [&](const auto& table, int64_t) {
        using Table = std::decay_t<decltype(table)>;
        const int64_t chunk_bytes = table.chunks() * int64_t{2 * sizeof(double)};
        auto* squares =
            static_cast<double*>(queue.scratch(chunk_bytes + table.count * int64_t{sizeof(float)}));
        auto* steps = reinterpret_cast<float*>(squares + 2 * int64_t{table.chunks()});
        launch(lamb_moments<Table>, table.chunks(), kSegmentThreads, 0, queue.handle(), table, narrow,
               static_cast<const float*>(gradient), first, second, p, squares, vectors);
        launch(lamb_steps<Table>, static_cast<unsigned>(table.count), kSegmentThreads, 0, queue.handle(),
               table, rule.lr, squares, steps);
        launch(lamb_update<Table>, table.chunks(), kSegmentThreads, 0, queue.handle(), table, narrow, steps,
               first, second, p, vectors);
      });
}

}  // namespace taper
