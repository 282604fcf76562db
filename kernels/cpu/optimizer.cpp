// Optimizers, in the order of PyTorch's operations (torch/optim/sgd.py and adamw.py, the path without
// `fused`), with a fused multiply-add where its CPU kernels have one and the instruction set does.

#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/optimizer.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace taper::HWY_NAMESPACE {
namespace {

/// f(vectors of the buffers) changes what it is given, for all elements of one segment.
template <typename F>
void update(int threads, int64_t size, F f, const float* gradient, float* first, float* second,
            float* parameter) {
  for_parts(threads, size, kGrain, [=](int64_t begin, int64_t end) HWY_ATTR {
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      V m = load(first + i), v = load(second + i), p = load(parameter + i);
      f(load(gradient + i), m, v, p);
      store(m, first + i);
      if (second != first) store(v, second + i);
      store(p, parameter + i);
    }
    if (i < end) {
      const int64_t n = end - i;
      V m = load_part(first + i, n), v = load_part(second + i, n), p = load_part(parameter + i, n);
      f(load_part(gradient + i, n), m, v, p);
      store_part(m, first + i, n);
      if (second != first) store_part(v, second + i, n);
      store_part(p, parameter + i, n);
    }
  });
}

void sgd_loops(int threads, const Segment& segment, const Sgd& rule, double gradient_scale,
               const float* gradient, float* momentum, float* parameter) {
  const double decay = segment.weight_decay;
  update(
      threads, segment.size,
      [=](V g, V& m, V&, V& p) HWY_ATTR {
        g = hn::Mul(g, splat(gradient_scale));
        if (decay != 0) g = hn::MulAdd(p, splat(decay), g);
        m = hn::Add(hn::Mul(m, splat(rule.momentum)), g);
        const V direction = rule.nesterov ? hn::MulAdd(m, splat(rule.momentum), g) : m;
        p = hn::MulAdd(direction, splat(-rule.lr), p);
      },
      gradient, momentum, momentum, parameter);
}

void adamw_loops(int threads, const Segment& segment, const AdamW& rule, double gradient_scale,
                 const float* gradient, float* first_moment, float* second_moment, float* parameter) {
  const double correction1 = 1 - std::pow(rule.beta1, static_cast<double>(rule.step));
  const double correction2 = std::sqrt(1 - std::pow(rule.beta2, static_cast<double>(rule.step)));
  const double kept = 1 - rule.lr * segment.weight_decay, step_size = -rule.lr / correction1;
  // torch's lerp counts from the nearer end.
  const bool near_m = 1 - rule.beta1 < 0.5;
  update(
      threads, segment.size,
      [=](V g, V& m, V& v, V& p) HWY_ATTR {
        g = hn::Mul(g, splat(gradient_scale));
        p = hn::Mul(p, splat(kept));
        m = hn::MulAdd(splat(near_m ? 1 - rule.beta1 : -rule.beta1), hn::Sub(g, m), near_m ? m : g);
        v = hn::Add(hn::Mul(v, splat(rule.beta2)), hn::Mul(hn::Mul(splat(1 - rule.beta2), g), g));
        const V denominator = hn::Add(hn::Div(hn::Sqrt(v), splat(correction2)), splat(rule.eps));
        p = hn::Add(p, hn::Div(hn::Mul(splat(step_size), m), denominator));
      },
      gradient, first_moment, second_moment, parameter);
}

/// The moments, and in `direction`, which holds the parameters, where they go. The moments as adamw has them.
void lamb_direction_loops(int threads, const Segment& segment, const Lamb& rule, double gradient_scale,
                          const float* gradient, float* first_moment, float* second_moment,
                          float* direction) {
  const double correction1 = 1 - std::pow(rule.beta1, static_cast<double>(rule.step));
  const double correction2 = std::sqrt(1 - std::pow(rule.beta2, static_cast<double>(rule.step)));
  const double decay = segment.weight_decay;
  const bool near_m = 1 - rule.beta1 < 0.5;
  update(
      threads, segment.size,
      [=](V g, V& m, V& v, V& p) HWY_ATTR {
        g = hn::Mul(g, splat(gradient_scale));
        m = hn::MulAdd(splat(near_m ? 1 - rule.beta1 : -rule.beta1), hn::Sub(g, m), near_m ? m : g);
        v = hn::Add(hn::Mul(v, splat(rule.beta2)), hn::Mul(hn::Mul(splat(1 - rule.beta2), g), g));
        const V denominator = hn::Add(hn::Div(hn::Sqrt(v), splat(correction2)), splat(rule.eps));
        const V step = hn::Div(hn::Mul(splat(1 / correction1), m), denominator);
        p = hn::MulAdd(p, splat(decay), step);
      },
      gradient, first_moment, second_moment, direction);
}

void lamb_step_loops(int threads, int64_t size, double step, const float* direction, float* parameter) {
  map_parts(
      threads, size, parameter, [=](V u, V p) HWY_ATTR { return hn::MulAdd(u, splat(-step), p); }, direction,
      parameter);
}

/// Chunks of 4096 in lanes of f64, in which the square of any float is finite; the chunks in order.
double squares_loops(int64_t size, const float* x) {
  constexpr int64_t kChunk = 4096;
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> half;
  constexpr int64_t kDoubles = static_cast<int64_t>(hn::MaxLanes(hn::ScalableTag<double>()));
  double total = 0;
  for (int64_t begin = 0; begin < size; begin += kChunk) {
    const int64_t end = std::min(size, begin + kChunk);
    auto even = hn::Zero(d), odd = even;
    int64_t i = begin;
    for (; i + 2 * kDoubles <= end; i += 2 * kDoubles) {
      const auto a = hn::PromoteTo(d, hn::LoadU(half, x + i));
      const auto b = hn::PromoteTo(d, hn::LoadU(half, x + i + kDoubles));
      even = hn::MulAdd(a, a, even);
      odd = hn::MulAdd(b, b, odd);
    }
    double chunk = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
    for (; i < end; ++i) chunk += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    total += chunk;
  }
  return total;
}

}  // namespace
}  // namespace taper::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace taper {
namespace {

HWY_EXPORT(sgd_loops);
HWY_EXPORT(adamw_loops);
HWY_EXPORT(lamb_direction_loops);
HWY_EXPORT(lamb_step_loops);
HWY_EXPORT(squares_loops);

void require_f32(DType type) {
  TAPER_CHECK(type == DType::f32, "the cpu backend's optimizers work on f32, not {}", taper::name(type));
}

}  // namespace

void CpuBackend::sgd(Stream& stream, std::span<const Segment> segments, DType type, const Sgd& rule,
                     double gradient_scale, const void* gradient, void* momentum, void* parameter) {
  require_f32(type);
  for (const Segment& segment : segments) HWY_DYNAMIC_DISPATCH(sgd_loops)
  (cpu_stream(stream).threads(), segment, rule, gradient_scale,
   static_cast<const float*>(gradient) + segment.offset, static_cast<float*>(momentum) + segment.offset,
   static_cast<float*>(parameter) + segment.offset);
}

void CpuBackend::adamw(Stream& stream, std::span<const Segment> segments, DType type, const AdamW& rule,
                       double gradient_scale, const void* gradient, void* first_moment, void* second_moment,
                       void* parameter) {
  require_f32(type);
  for (const Segment& segment : segments) HWY_DYNAMIC_DISPATCH(adamw_loops)
  (cpu_stream(stream).threads(), segment, rule, gradient_scale,
   static_cast<const float*>(gradient) + segment.offset, static_cast<float*>(first_moment) + segment.offset,
   static_cast<float*>(second_moment) + segment.offset, static_cast<float*>(parameter) + segment.offset);
}

void CpuBackend::lamb(Stream& stream, std::span<const Segment> segments, DType type, const Lamb& rule,
                      double gradient_scale, const void* gradient, void* first_moment, void* second_moment,
                      void* parameter) {
  require_f32(type);
  const int threads = cpu_stream(stream).threads();
  for (const Segment& segment : segments) {
    float* p = static_cast<float*>(parameter) + segment.offset;
    auto* direction = static_cast<float*>(cpu_stream(stream).scratch(segment.size * int64_t{sizeof(float)}));
    std::copy(p, p + segment.size, direction);
    HWY_DYNAMIC_DISPATCH(lamb_direction_loops)
    (threads, segment, rule, gradient_scale, static_cast<const float*>(gradient) + segment.offset,
     static_cast<float*>(first_moment) + segment.offset, static_cast<float*>(second_moment) + segment.offset,
     direction);
    const double p_squares = HWY_DYNAMIC_DISPATCH(squares_loops)(segment.size, p);
    const double u_squares = HWY_DYNAMIC_DISPATCH(squares_loops)(segment.size, direction);
    const double ratio = p_squares == 0 || u_squares == 0 ? 1 : std::sqrt(p_squares) / std::sqrt(u_squares);
    HWY_DYNAMIC_DISPATCH(lamb_step_loops)(threads, segment.size, rule.lr * ratio, direction, p);
  }
}

void CpuBackend::sum_of_squares(Stream&, std::span<const Segment> segments, DType type, const void* x,
                                double* squares) {
  require_f32(type);
  for (size_t i = 0; i < segments.size(); ++i)
    squares[i] = HWY_DYNAMIC_DISPATCH(squares_loops)(segments[i].size,
                                                     static_cast<const float*>(x) + segments[i].offset);
}

}  // namespace taper
#endif  // HWY_ONCE
