// Activations, dropout and the plain elementwise operations (kernels/activation.h has formulas and shapes).
//
// One thread moves 16 bytes of each argument, neighbouring threads neighbouring bytes; the last thread takes
// what is left, and pointers that are not aligned to 16 bytes are moved an element at a time. The transpose
// goes through a tile of shared memory, so that both sides are read and written along their rows. Each output
// element has one thread and one formula in f32 (axpby: in double): the bits depend on nothing else.

#include <cmath>

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device.cuh"
#include "runtime/cuda/launch.h"
#include "runtime/philox.h"

namespace taper {

using namespace cuda;

namespace {

constexpr int kThreads = 256;

struct Identity {
  __device__ float operator()(float x) const { return x; }
};
struct Relu {
  __device__ float operator()(float x) const { return x < 0 ? 0 : x; }
};
struct Tanh {
  __device__ float operator()(float x) const { return tanhf(x); }
};

// Gradients: of dy, and of y (relu, tanh) or x.
struct IdentityGradient {
  __device__ float operator()(float dy, float) const { return dy; }
};
struct ReluGradient {
  __device__ float operator()(float dy, float y) const { return y > 0 ? dy : 0; }
};
struct TanhGradient {
  __device__ float operator()(float dy, float y) const { return dy * (1 - y * y); }
};
struct GeluGradient {
  __device__ float operator()(float dy, float x) const {
    return dy * (normal_distribution(x) + x * (0.39894228f * expf(-0.5f * x * x)));
  }
};
struct GeluTanhGradient {
  __device__ float operator()(float dy, float x) const {
    // Beyond 30 the gate is 0 or 1 to the last bit; the bound keeps its slope finite, and a NaN as it is.
    const float bounded = x < -30 ? -30 : x > 30 ? 30 : x;
    const float gate = 1 / (1 + gelu_tanh_exponential(bounded));
    const float slope = 2 * 0.79788456f * (1 + 3 * 0.044715f * bounded * bounded);
    return dy * (gate + bounded * slope * gate * (1 - gate));
  }
};

struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};

/// y[i] = f(x[i]); y may be x.
template <typename T, typename F>
__global__ void __launch_bounds__(kThreads) map_one(int64_t count, F f, const T* x, T* y, bool vectors) {
  constexpr int kWidth = kPerVector<T>;
  const int64_t first = thread_number() * kWidth;
  if (first >= count) return;
  T values[kWidth] = {};
  load(values, x + first, count - first, vectors);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) values[i] = convert<T>(f(to_float(values[i])));
  store(values, y + first, count - first, vectors);
}

/// y[i] = f(a[i], b[i]); y may be a or b.
template <typename T, typename F>
__global__ void __launch_bounds__(kThreads)
    map_two(int64_t count, F f, const T* a, const T* b, T* y, bool vectors) {
  constexpr int kWidth = kPerVector<T>;
  const int64_t first = thread_number() * kWidth;
  if (first >= count) return;
  T left[kWidth] = {}, right[kWidth] = {};
  load(left, a + first, count - first, vectors);
  load(right, b + first, count - first, vectors);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) left[i] = convert<T>(f(to_float(left[i]), to_float(right[i])));
  store(left, y + first, count - first, vectors);
}

/// In double: an average with beta = 0.9999 and alpha = 1 - beta would settle 2e-4 off if both were floats.
__global__ void __launch_bounds__(kThreads)
    axpby_kernel(int64_t count, double alpha, const float* x, double beta, float* y, bool vectors) {
  constexpr int kWidth = kPerVector<float>;
  const int64_t first = thread_number() * kWidth;
  if (first >= count) return;
  float from[kWidth] = {}, to[kWidth] = {};
  load(from, x + first, count - first, vectors);
  load(to, y + first, count - first, vectors);
#pragma unroll
  for (int i = 0; i < kWidth; ++i)
    to[i] = static_cast<float>(alpha * static_cast<double>(from[i]) + beta * static_cast<double>(to[i]));
  store(to, y + first, count - first, vectors);
}

__device__ float widen(float value) { return value; }
__device__ float widen(Bf16 value) { return to_float(value); }
__device__ float widen(double value) { return static_cast<float>(value); }

template <typename From, typename To>
__global__ void __launch_bounds__(kThreads)
    cast_kernel(int64_t count, const From* from, To* to, bool vectors) {
  constexpr int kWidth = kPerVectorOfBoth<From, To>;
  const int64_t first = thread_number() * kWidth;
  if (first >= count) return;
  From in[kWidth] = {};
  To out[kWidth];
  load(in, from + first, count - first, vectors);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) out[i] = convert<To>(widen(in[i]));
  store(out, to + first, count - first, vectors);
}

constexpr int kTile = 32, kTileRows = 8;

/// A tile of 32 x 32 elements a block, 8 rows at a time. With one column more than it needs, or as many as
/// fill a bank of 4 bytes, a tile's column lies in 32 different banks.
template <typename T>
__global__ void __launch_bounds__(kTile* kTileRows)
    transpose_kernel(int64_t rows, int64_t columns, uint32_t row_tiles, uint32_t column_tiles, const T* x,
                     T* y) {
  constexpr int kMore = sizeof(T) < 4 ? 4 / sizeof(T) : 1;
  __shared__ T tile[kTile][kTile + kMore];
  // A grid has fewer than 2^31 blocks.
  const int64_t matrix = blockIdx.x / (row_tiles * column_tiles);
  const int64_t row = int64_t{blockIdx.x / column_tiles % row_tiles} * kTile;
  const int64_t column = int64_t{blockIdx.x % column_tiles} * kTile;
  const int across = static_cast<int>(threadIdx.x), first = static_cast<int>(threadIdx.y);
  // Of the tile, what lies in the matrix.
  const int tall = static_cast<int>(rows - row < kTile ? rows - row : kTile);
  const int wide = static_cast<int>(columns - column < kTile ? columns - column : kTile);
  const T* from = x + (matrix * rows + row + first) * columns + column + across;
  for (int down = first; down < tall; down += kTileRows, from += kTileRows * columns)
    if (across < wide) tile[down][across] = *from;
  __syncthreads();
  T* to = y + (matrix * columns + column + first) * rows + row + across;
  for (int down = first; down < wide; down += kTileRows, to += kTileRows * rows)
    if (across < tall) *to = tile[across][down];
}

/// A thread takes four features of a row: one draw of Philox. Words are compared as integers: uniform(w) >= p
/// iff (w >> 8) >= ceil(p 2^24).
template <typename T>
__global__ void __launch_bounds__(kThreads)
    dropout_kernel(int64_t rows, int64_t features, int64_t groups, uint32_t threshold, float scale,
                   uint64_t key, const int64_t* row_ids, const T* x, T* y, bool vectors) {
  const int64_t row = thread_number() / groups, group = thread_number() % groups;
  if (row >= rows) return;
  const auto id = static_cast<uint64_t>(row_ids != nullptr ? row_ids[row] : row);
  const auto words = philox(
      {static_cast<uint32_t>(group), static_cast<uint32_t>(id), static_cast<uint32_t>(id >> 32), 0}, key);
  const int64_t first = row * features + 4 * group, count = features - 4 * group;
  T values[4] = {};
  load(values, x + first, count, vectors);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    values[i] = convert<T>(words[i] >> 8 >= threshold ? to_float(values[i]) * scale : 0.0f);
  store(values, y + first, count, vectors);
}

template <typename F, typename T>
void launch_map(CudaStream& stream, int64_t count, const T* x, T* y) {
  launch(map_one<T, F>, blocks_for(count, kThreads * kPerVector<T>), kThreads, 0, stream.handle(), count, F{},
         x, y, aligned(x, y));
}

template <typename F, typename T>
void launch_map(CudaStream& stream, int64_t count, const T* a, const T* b, T* y) {
  launch(map_two<T, F>, blocks_for(count, kThreads * kPerVector<T>), kThreads, 0, stream.handle(), count, F{},
         a, b, y, aligned(a, b, y));
}

template <typename From, typename To>
void launch_cast(CudaStream& stream, int64_t count, const void* from, void* to) {
  launch(cast_kernel<From, To>, blocks_for(count, kThreads * kPerVectorOfBoth<From, To>), kThreads, 0,
         stream.handle(), count, static_cast<const From*>(from), static_cast<To*>(to), aligned(from, to));
}

template <typename T>
void launch_transpose(CudaStream& stream, int64_t batch, int64_t rows, int64_t columns, const void* x,
                      void* y) {
  const uint32_t row_tiles = blocks_for(rows, kTile), column_tiles = blocks_for(columns, kTile);
  launch(transpose_kernel<T>, blocks_for(batch * int64_t{row_tiles} * column_tiles, 1),
         dim3(kTile, kTileRows), 0, stream.handle(), rows, columns, row_tiles, column_tiles,
         static_cast<const T*>(x), static_cast<T*>(y));
}

}  // namespace

void CudaBackend::activate(Stream& stream, Activation f, int64_t count, DType type, const void* x, void* y) {
  dispatch(type, "activate", [&](auto zero) {
    using T = decltype(zero);
    CudaStream& queue = cuda_stream(stream);
    const auto* in = static_cast<const T*>(x);
    auto* out = static_cast<T*>(y);
    switch (f) {
      case Activation::none:
        return launch_map<Identity>(queue, count, in, out);
      case Activation::relu:
        return launch_map<Relu>(queue, count, in, out);
      case Activation::tanh:
        return launch_map<Tanh>(queue, count, in, out);
      case Activation::gelu:
        return launch_map<Gelu>(queue, count, in, out);
      case Activation::gelu_tanh:
        return launch_map<GeluTanh>(queue, count, in, out);
    }
    throw Failure("no activation has the number {}", static_cast<int>(f));
  });
}

void CudaBackend::activate_backward(Stream& stream, Activation f, int64_t count, DType type, const void* dy,
                                    const void* saved, void* dx) {
  dispatch(type, "activate_backward", [&](auto zero) {
    using T = decltype(zero);
    CudaStream& queue = cuda_stream(stream);
    const auto* gradient = static_cast<const T*>(dy);
    const auto* kept = static_cast<const T*>(saved);
    auto* out = static_cast<T*>(dx);
    switch (f) {
      case Activation::none:
        return launch_map<IdentityGradient>(queue, count, gradient, kept, out);
      case Activation::relu:
        return launch_map<ReluGradient>(queue, count, gradient, kept, out);
      case Activation::tanh:
        return launch_map<TanhGradient>(queue, count, gradient, kept, out);
      case Activation::gelu:
        return launch_map<GeluGradient>(queue, count, gradient, kept, out);
      case Activation::gelu_tanh:
        return launch_map<GeluTanhGradient>(queue, count, gradient, kept, out);
    }
    throw Failure("no activation has the number {}", static_cast<int>(f));
  });
}

void CudaBackend::add(Stream& stream, int64_t count, DType type, const void* a, const void* b, void* y) {
  dispatch(type, "add", [&](auto zero) {
    using T = decltype(zero);
    launch_map<Add>(cuda_stream(stream), count, static_cast<const T*>(a), static_cast<const T*>(b),
                    static_cast<T*>(y));
  });
}

void CudaBackend::axpby(Stream& stream, int64_t count, DType type, double alpha, const void* x, double beta,
                        void* y) {
  TAPER_CHECK(type == DType::f32, "axpby of {}", taper::name(type));
  launch(axpby_kernel, blocks_for(count, kThreads * kPerVector<float>), kThreads, 0,
         cuda_stream(stream).handle(), count, alpha, static_cast<const float*>(x), beta,
         static_cast<float*>(y), aligned(x, y));
}

void CudaBackend::cast(Stream& stream, int64_t count, DType from_type, const void* from, DType to_type,
                       void* to) {
  CudaStream& queue = cuda_stream(stream);
  auto is = [&](DType a, DType b) { return from_type == a && to_type == b; };
  if (from_type == to_type) return queue.copy(to, from, count * size_of(from_type));
  if (is(DType::f32, DType::bf16)) return launch_cast<float, Bf16>(queue, count, from, to);
  if (is(DType::bf16, DType::f32)) return launch_cast<Bf16, float>(queue, count, from, to);
  if (is(DType::f32, DType::f64)) return launch_cast<float, double>(queue, count, from, to);
  if (is(DType::bf16, DType::f64)) return launch_cast<Bf16, double>(queue, count, from, to);
  if (is(DType::f64, DType::f32)) return launch_cast<double, float>(queue, count, from, to);
  if (is(DType::f64, DType::bf16)) return launch_cast<double, Bf16>(queue, count, from, to);
  throw Failure("cast on CUDA is among f32, bf16 and f64, not from {} to {}", taper::name(from_type),
                taper::name(to_type));
}

void CudaBackend::transpose(Stream& stream, int64_t batch, int64_t rows, int64_t columns, DType type,
                            const void* x, void* y) {
  CudaStream& queue = cuda_stream(stream);
  // The bits move, whatever they mean.
  switch (size_of(type)) {
    case 1:
      return launch_transpose<uint8_t>(queue, batch, rows, columns, x, y);
    case 2:
      return launch_transpose<uint16_t>(queue, batch, rows, columns, x, y);
    case 4:
      return launch_transpose<uint32_t>(queue, batch, rows, columns, x, y);
    default:
      return launch_transpose<uint64_t>(queue, batch, rows, columns, x, y);
  }
}

void CudaBackend::dropout(Stream& stream, int64_t rows, int64_t features, DType type, double p, uint64_t key,
                          const int64_t* row_ids, const void* x, void* y) {
  TAPER_CHECK(p >= 0 && p < 1, "dropout with probability {}", p);
  const int64_t groups = (features + 3) / 4;
  dispatch(type, "dropout", [&](auto zero) {
    using T = decltype(zero);
    launch(dropout_kernel<T>, blocks_for(rows * groups, kThreads), kThreads, 0, cuda_stream(stream).handle(),
           rows, features, groups, static_cast<uint32_t>(std::ceil(p * 0x1p24)),
           static_cast<float>(1 / (1 - p)), key, row_ids, static_cast<const T*>(x), static_cast<T*>(y),
           aligned(x, y) && features % 4 == 0);
  });
}

}  // namespace taper
