// Activations, dropout and the plain elementwise operations.

#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace taper::HWY_NAMESPACE {
namespace {

/// sigmoid(2u) with u = sqrt(2 / pi) (x + 0.044715 x^3): gelu_tanh(x) = x sigmoid(2u). Beyond 30 it is 0 or 1
/// to the last bit, and the bound keeps x^3 finite.
HWY_INLINE V gelu_gate(V x) {
  const V bounded = keep_nan(x, hn::Max(splat(-30), hn::Min(splat(30), x)));
  const V square = hn::Mul(bounded, bounded);
  const V minus_2u = hn::Mul(
      bounded, hn::MulAdd(square, splat(-2 * 0.7978845608028654 * 0.044715), splat(-2 * 0.7978845608028654)));
  return hn::Div(splat(1), hn::Add(splat(1), exponential(minus_2u)));
}

HWY_INLINE V gelu_tanh_slope(V x) {
  const V gate = gelu_gate(x);
  const V bounded = keep_nan(x, hn::Max(splat(-30), hn::Min(splat(30), x)));
  const V du = hn::MulAdd(hn::Mul(bounded, bounded), splat(6 * 0.7978845608028654 * 0.044715),
                          splat(2 * 0.7978845608028654));
  return hn::MulAdd(hn::Mul(bounded, du), hn::Mul(gate, hn::Sub(splat(1), gate)), gate);
}

void activate_loops(int threads, Activation f, int64_t count, DType type, const void* x, void* y) {
  with_type(type, [=](auto t) HWY_ATTR {
    using T = decltype(t);
    auto* in = static_cast<const T*>(x);
    auto* out = static_cast<T*>(y);
    switch (f) {
      case Activation::none:
        return map_parts(
            threads, count, out, [](V v) HWY_ATTR { return v; }, in);
      case Activation::relu:
        return map_parts(
            threads, count, out,
            [](V v) HWY_ATTR { return hn::IfThenElse(hn::Lt(v, hn::Zero(kFloats)), hn::Zero(kFloats), v); },
            in);
      case Activation::tanh:
        return map_parts(
            threads, count, out, [](V v) HWY_ATTR { return hyperbolic_tangent(v); }, in);
      case Activation::gelu:
        return map_parts(
            threads, count, out, [](V v) HWY_ATTR { return hn::Mul(v, normal(v).distribution); }, in);
      case Activation::gelu_tanh:
        return map_parts(
            threads, count, out, [](V v) HWY_ATTR { return hn::Mul(v, gelu_gate(v)); }, in);
    }
  });
}

void activate_backward_loops(int threads, Activation f, int64_t count, DType type, const void* dy,
                             const void* saved, void* dx) {
  with_type(type, [=](auto t) HWY_ATTR {
    using T = decltype(t);
    auto* gradient = static_cast<const T*>(dy);
    auto* kept = static_cast<const T*>(saved);
    auto* out = static_cast<T*>(dx);
    switch (f) {
      case Activation::none:
        return map_parts(
            threads, count, out, [](V g) HWY_ATTR { return g; }, gradient);
      case Activation::relu:
        return map_parts(
            threads, count, out,
            [](V g, V y) HWY_ATTR { return hn::IfThenElseZero(hn::Gt(y, hn::Zero(kFloats)), g); }, gradient,
            kept);
      case Activation::tanh:
        return map_parts(
            threads, count, out, [](V g, V y) HWY_ATTR { return hn::Mul(g, hn::NegMulAdd(y, y, splat(1))); },
            gradient, kept);
      case Activation::gelu:
        return map_parts(
            threads, count, out,
            [](V g, V v) HWY_ATTR {
              const Normal n = normal(v);
              return hn::Mul(g, hn::MulAdd(v, n.density, n.distribution));
            },
            gradient, kept);
      case Activation::gelu_tanh:
        return map_parts(
            threads, count, out, [](V g, V v) HWY_ATTR { return hn::Mul(g, gelu_tanh_slope(v)); }, gradient,
            kept);
    }
  });
}

void add_loops(int threads, int64_t count, DType type, const void* a, const void* b, void* y) {
  with_type(type, [=](auto t) HWY_ATTR {
    using T = decltype(t);
    map_parts(
        threads, count, static_cast<T*>(y), [](V p, V q) HWY_ATTR { return hn::Add(p, q); },
        static_cast<const T*>(a), static_cast<const T*>(b));
  });
}

/// In double: an average with beta = 0.9999 and alpha = 1 - beta would settle 2e-4 off if both were floats.
void axpby_loops(int threads, int64_t count, double alpha, const float* x, double beta, float* y) {
  for_parts(threads, count, kGrain, [=](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t i = begin; i < end; ++i)
      y[i] = static_cast<float>(alpha * static_cast<double>(x[i]) + beta * static_cast<double>(y[i]));
  });
}

void round_loops(int threads, int64_t count, const float* from, bf16* to) {
  map_parts(
      threads, count, to, [](V v) HWY_ATTR { return v; }, from);
}

void widen_loops(int threads, int64_t count, const bf16* from, float* to) {
  map_parts(
      threads, count, to, [](V v) HWY_ATTR { return v; }, from);
}

void dropout_loops(int threads, int64_t rows, int64_t features, DType type, double p, uint64_t key,
                   const int64_t* row_ids, const void* x, void* y) {
  constexpr int64_t kBlock = 1024;
  const int32_t threshold = keep_threshold(p);
  const float scale = static_cast<float>(1 / (1 - p));
  with_type(type, [=](auto t) HWY_ATTR {
    using T = decltype(t);
    auto* in = static_cast<const T*>(x);
    auto* out = static_cast<T*>(y);
    for_parts(
        threads, rows, std::max<int64_t>(1, kGrain / features), [=](int64_t begin, int64_t end) HWY_ATTR {
          HWY_ALIGN uint32_t words[kBlock];
          for (int64_t r = begin; r < end; ++r) {
            const auto id = static_cast<uint64_t>(row_ids ? row_ids[r] : r);
            for (int64_t f = 0; f < features; f += kBlock) {
              const int64_t n = std::min(kBlock, features - f);
              philox_words(static_cast<uint32_t>(f / 4), (n + 3) / 4, static_cast<uint32_t>(id),
                           static_cast<uint32_t>(id >> 32), 0, key, words);
              const T* from = in + r * features + f;
              T* to = out + r * features + f;
              const V factor = splat(scale);
              int64_t i = 0;
              for (; i + kLanes <= n; i += kLanes)
                store(keep(load(from + i), factor, words + i, threshold), to + i);
              if (i < n)
                store_part(keep(load_part(from + i, n - i), factor, words + i, threshold), to + i, n - i);
            }
          }
        });
  });
}

}  // namespace
}  // namespace taper::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace taper {
namespace {

HWY_EXPORT(activate_loops);
HWY_EXPORT(activate_backward_loops);
HWY_EXPORT(add_loops);
HWY_EXPORT(axpby_loops);
HWY_EXPORT(round_loops);
HWY_EXPORT(widen_loops);
HWY_EXPORT(dropout_loops);

template <typename From, typename To, typename F>
void convert(int64_t count, const void* from, void* to, F f) {
  auto* in = static_cast<const From*>(from);
  auto* out = static_cast<To*>(to);
  for (int64_t i = 0; i < count; ++i) out[i] = f(in[i]);
}

/// Tiles of 32 x 32, so that both sides stay within a few cache lines.
template <typename T>
void transpose_tiles(int64_t rows, int64_t columns, const T* x, T* y) {
  constexpr int64_t kTile = 32;
  for (int64_t i0 = 0; i0 < rows; i0 += kTile)
    for (int64_t j0 = 0; j0 < columns; j0 += kTile)
      for (int64_t j = j0; j < std::min(columns, j0 + kTile); ++j)
        for (int64_t i = i0; i < std::min(rows, i0 + kTile); ++i) y[j * rows + i] = x[i * columns + j];
}

}  // namespace

void CpuBackend::activate(Stream& stream, Activation f, int64_t count, DType type, const void* x, void* y) {
  HWY_DYNAMIC_DISPATCH(activate_loops)(cpu_stream(stream).threads(), f, count, type, x, y);
}

void CpuBackend::activate_backward(Stream& stream, Activation f, int64_t count, DType type, const void* dy,
                                   const void* saved, void* dx) {
  HWY_DYNAMIC_DISPATCH(activate_backward_loops)
  (cpu_stream(stream).threads(), f, count, type, dy, saved, dx);
}

void CpuBackend::add(Stream& stream, int64_t count, DType type, const void* a, const void* b, void* y) {
  HWY_DYNAMIC_DISPATCH(add_loops)(cpu_stream(stream).threads(), count, type, a, b, y);
}

void CpuBackend::axpby(Stream& stream, int64_t count, DType type, double alpha, const void* x, double beta,
                       void* y) {
  TAPER_CHECK(type == DType::f32, "axpby of {}", taper::name(type));
  HWY_DYNAMIC_DISPATCH(axpby_loops)
  (cpu_stream(stream).threads(), count, alpha, static_cast<const float*>(x), beta, static_cast<float*>(y));
}

void CpuBackend::cast(Stream& stream, int64_t count, DType from_type, const void* from, DType to_type,
                      void* to) {
  const int threads = cpu_stream(stream).threads();
  if (from_type == to_type) {
    stream.copy(to, from, count * size_of(from_type));
  } else if (from_type == DType::f32 && to_type == DType::bf16) {
    HWY_DYNAMIC_DISPATCH(round_loops)
    (threads, count, static_cast<const float*>(from), static_cast<bf16*>(to));
  } else if (from_type == DType::bf16 && to_type == DType::f32) {
    HWY_DYNAMIC_DISPATCH(widen_loops)
    (threads, count, static_cast<const bf16*>(from), static_cast<float*>(to));
  } else if (from_type == DType::f32 && to_type == DType::f64) {
    convert<float, double>(count, from, to, [](float v) { return static_cast<double>(v); });
  } else if (from_type == DType::bf16 && to_type == DType::f64) {
    convert<bf16, double>(count, from, to, [](bf16 v) { return static_cast<double>(static_cast<float>(v)); });
  } else if (from_type == DType::f64 && to_type == DType::f32) {
    convert<double, float>(count, from, to, [](double v) { return static_cast<float>(v); });
  } else if (from_type == DType::f64 && to_type == DType::bf16) {
    convert<double, bf16>(count, from, to, [](double v) { return bf16(static_cast<float>(v)); });
  } else {
    throw Failure("the cpu backend casts among f32, bf16 and f64, not from {} to {}", taper::name(from_type),
                  taper::name(to_type));
  }
}

void CpuBackend::transpose(Stream&, int64_t batch, int64_t rows, int64_t columns, DType type, const void* x,
                           void* y) {
  auto all = [&]<typename T>(T) {
    for (int64_t b = 0; b < batch; ++b)
      transpose_tiles(rows, columns, static_cast<const T*>(x) + b * rows * columns,
                      static_cast<T*>(y) + b * rows * columns);
  };
  // The bits move, whatever they mean.
  switch (size_of(type)) {
    case 1:
      return all(uint8_t{});
    case 2:
      return all(uint16_t{});
    case 4:
      return all(uint32_t{});
    default:
      return all(uint64_t{});
  }
}

void CpuBackend::dropout(Stream& stream, int64_t rows, int64_t features, DType type, double p, uint64_t key,
                         const int64_t* row_ids, const void* x, void* y) {
  TAPER_CHECK(p >= 0 && p < 1, "dropout with probability {}", p);
  HWY_DYNAMIC_DISPATCH(dropout_loops)
  (cpu_stream(stream).threads(), rows, features, type, p, key, row_ids, x, y);
}

}  // namespace taper
#endif  // HWY_ONCE
