// Matrix products (kernels/matmul.h): bf16 and tf32 on tensor cores, f32 in f32.

#include <cmath>

#include "kernels/cuda/activations.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/product.cuh"

namespace taper {

using namespace cuda;

namespace {

/// MatmulEpilogue on the device, four neighbours of a row at a time.
template <typename Out>
struct MatmulOutput {
  float scale;
  const float* bias;
  Activation activation;
  Out* pre_activation;
  const Out* residual;
  bool accumulate;
  Out* out;
  int64_t n, stride;
  bool vectors;  ///< four neighbours are aligned, in every array

  __device__ void operator()(int64_t matrix, int64_t row, int64_t column, int count,
                             float (&values)[4]) const {
    const int64_t at = matrix * stride + row * n + column;
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] *= scale;
    if (accumulate) add(values, out + at, count);
    if (bias != nullptr) add(values, bias + column, count);
    if (pre_activation != nullptr) put(values, pre_activation + at, count);
    if (activation == Activation::gelu) map(values, Gelu{});
    if (activation == Activation::gelu_tanh) map(values, GeluTanh{});
    if (residual != nullptr) add(values, residual + at, count);
    put(values, out + at, count);
  }
  __device__ void finish() const {}

 private:
  template <typename F>
  __device__ static void map(float (&values)[4], F f) {
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = f(values[i]);
  }
  template <typename T>
  __device__ void add(float (&values)[4], const T* from, int count) const {
    T more[4] = {};
    load(more, from, count, vectors);
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] += to_float(more[i]);
  }
  __device__ void put(const float (&values)[4], Out* to, int count) const {
    Out rounded[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) rounded[i] = convert<Out>(values[i]);
    store(rounded, to, count, vectors);
  }
};

/// `e` for this shape; out and what else is of its type lie stride_out apart.
template <typename Out>
MatmulOutput<Out> output_of(const MatmulShape& shape, const MatmulEpilogue& e, void* out) {
  const int64_t stride = shape.batch == 1 ? 0 : shape.stride_out;
  return {
      .scale = static_cast<float>(e.scale),
      .bias = static_cast<const float*>(e.bias),
      .activation = e.activation,
      .pre_activation = static_cast<Out*>(e.pre_activation),
      .residual = static_cast<const Out*>(e.residual),
      .accumulate = e.accumulate,
      .out = static_cast<Out*>(out),
      .n = shape.n,
      .stride = stride,
      .vectors = shape.n % 4 == 0 && stride % 4 == 0 && aligned(e.bias, e.pre_activation, e.residual, out)};
}

template <typename Products, typename Out>
void launch_matmul(CudaStream& stream, const MatmulShape& shape, const void* a, const void* b,
                   const MatmulEpilogue& e, void* out) {
  using T = typename Products::Element;
  const ProductPlan plan = plan_product<Products>(shape);
  const MatmulOutput<Out> output = output_of<Out>(shape, e, out);
  const auto* left = static_cast<const T*>(a);
  const auto* right = static_cast<const T*>(b);
  if (shape.transpose_a && shape.transpose_b)
    launch_product<Products, Major::mn, Major::k>(stream, shape, plan, left, right, output);
  else if (shape.transpose_a)
    launch_product<Products, Major::mn, Major::mn>(stream, shape, plan, left, right, output);
  else if (shape.transpose_b)
    launch_product<Products, Major::k, Major::k>(stream, shape, plan, left, right, output);
  else
    launch_product<Products, Major::k, Major::mn>(stream, shape, plan, left, right, output);
}

}  // namespace

void CudaBackend::matmul(Stream& stream, const MatmulShape& shape, DType type, const void* a, const void* b,
                         const MatmulEpilogue& epilogue, DType out_type, void* out) {
  product(stream, shape, type, options_.tf32, a, b, epilogue, out_type, out);
}

void CudaBackend::product(Stream& stream, const MatmulShape& shape, DType type, bool tf32, const void* a,
                          const void* b, const MatmulEpilogue& epilogue, DType out_type, void* out) {
  TAPER_CHECK(epilogue.activation != Activation::relu && epilogue.activation != Activation::tanh,
              "a product is followed by gelu, gelu_tanh or nothing");
  TAPER_CHECK(!epilogue.accumulate || (epilogue.bias == nullptr && epilogue.activation == Activation::none &&
                                       epilogue.pre_activation == nullptr && epilogue.residual == nullptr),
              "an accumulating product takes nothing but a scale");
  TAPER_CHECK(out_type == type || out_type == accumulator(type), "a product of {} written as {}",
              taper::name(type), taper::name(out_type));
  dispatch_products(type, tf32, "matmul", [&](auto products) {
    using Products = decltype(products);
    if (out_type == DType::f32)
      launch_matmul<Products, float>(cuda_stream(stream), shape, a, b, epilogue, out);
    else
      launch_matmul<Products, typename Products::Element>(cuda_stream(stream), shape, a, b, epilogue, out);
  });
}

void CudaBackend::apply_epilogue(Stream& stream, const MatmulShape& shape, const float* product,
                                 const MatmulEpilogue& epilogue, DType out_type, void* out) {
  dispatch(out_type, "matmul", [&](auto zero) {
    using Out = decltype(zero);
    const int64_t groups = shape.batch * shape.m * blocks_for(shape.n, 4);
    launch(combine_kernel<MatmulOutput<Out>>, blocks_for(groups, kCombineThreads), kCombineThreads, 0,
           cuda_stream(stream).handle(), product, 1, shape.batch, shape.m, shape.n,
           output_of<Out>(shape, epilogue, out));
  });
}

}  // namespace taper
