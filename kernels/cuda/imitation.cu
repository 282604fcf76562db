// Imitation through a bridge (kernels/loss.h). The teacher's output is projected, t U, and the product's
// epilogue has all that the student needs: its own output h beside the projection gives the gradient and the
// loss's terms. Of the wide width only |t|^2 remains, which a pass over t adds up.

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/product.cuh"
#include "runtime/tensor.h"

namespace taper {

using namespace cuda;

namespace {

constexpr int kThreads = 256;
/// Elements of t that a block squares.
constexpr int64_t kSquaresPerBlock = 16384;

/// The loss is scale times the sum of terms, one from each block of the product and of the squares.
template <typename T>
struct ImitationOutput {
  const T* h;
  const float* hg;  ///< h U^T U; null for a tied bridge, where it is h
  float factor;     ///< of the gradient: 2 scale
  T* dh;
  float* terms;
  int64_t thin;
  bool vectors;  ///< four neighbours are aligned, in every array
  float sum = 0;

  /// `values` are of t U. The terms of a tied bridge are (h - tU)^2 - (tU)^2; in general, h (hg - 2 tU).
  __device__ void operator()(int64_t, int64_t row, int64_t column, int count, float (&values)[4]) {
    const int64_t at = row * thin + column;
    T own[4] = {}, gradient[4];
    load(own, h + at, count, vectors);
    float lifted[4] = {};
    if (hg != nullptr) load(lifted, hg + at, count, vectors);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float student = to_float(own[i]), tu = values[i];
      const float difference = (hg != nullptr ? lifted[i] : student) - tu;
      const float term = hg != nullptr ? student * (difference - tu) : difference * difference - tu * tu;
      if (i < count) sum += term;
      gradient[i] = convert<T>(factor * difference);
    }
    store(gradient, dh + at, count, vectors);
  }
  __device__ void finish() {
    const float total = block_reduce(sum, Sum{}, 0.0f);
    if (threadIdx.x == 0) terms[blockIdx.x] = total;
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    squares_kernel(int64_t count, const T* x, float* terms, bool vectors) {
  constexpr int kWidth = kPerVector<T>;
  float sum = 0;
  const int64_t first = blockIdx.x * kSquaresPerBlock;
  const int64_t end = count - first < kSquaresPerBlock ? count : first + kSquaresPerBlock;
  for (int64_t i = first + threadIdx.x * kWidth; i < end; i += kThreads * kWidth) {
    T values[kWidth] = {};
    load(values, x + i, end - i, vectors);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum += to_float(values[j]) * to_float(values[j]);
  }
  sum = block_reduce(sum, Sum{}, 0.0f);
  if (threadIdx.x == 0) terms[blockIdx.x] = sum;
}

/// One block. In double: the terms of a good student cancel nearly.
__global__ void __launch_bounds__(kThreads)
    loss_kernel(int64_t count, const float* terms, double scale, float* loss) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += static_cast<double>(terms[i]);
  sum = block_reduce(sum, Sum{}, 0.0);
  if (threadIdx.x == 0) *loss = static_cast<float>(scale * sum);
}

/// The loss and dh of both bridges; `hg` as ImitationOutput has it.
template <typename Products>
void launch_imitation(CudaStream& stream, const ImitationShape& s, const void* t, const void* u,
                      const void* h, const float* hg, void* loss, void* dh) {
  using T = typename Products::Element;
  const MatmulShape shape{.m = s.rows, .n = s.thin, .k = s.wide};
  const ProductPlan plan = plan_product<Products>(shape);
  const int64_t elements = s.rows * s.wide, square_blocks = blocks_for(elements, kSquaresPerBlock);
  const int64_t count = plan.epilogue_blocks + square_blocks;
  Tensor terms(stream, DType::f32, {count});
  const auto* teacher = static_cast<const T*>(t);
  launch_product<Products, Major::k, Major::mn>(
      stream, shape, plan, teacher, static_cast<const T*>(u),
      ImitationOutput<T>{.h = static_cast<const T*>(h),
                         .hg = hg,
                         .factor = static_cast<float>(2 * s.scale),
                         .dh = static_cast<T*>(dh),
                         .terms = terms.as<float>(),
                         .thin = s.thin,
                         .vectors = s.thin % 4 == 0 && aligned(h, hg, dh)});
  launch(squares_kernel<T>, blocks_for(square_blocks, 1), kThreads, 0, stream.handle(), elements, teacher,
         terms.as<float>() + plan.epilogue_blocks, aligned(t));
  launch(loss_kernel, 1, kThreads, 0, stream.handle(), count, terms.as<float>(), s.scale,
         static_cast<float*>(loss));
}

}  // namespace

void CudaBackend::imitation(Stream& stream, const ImitationShape& shape, DType type, const void* t,
                            const void* u, const void* h, void* loss, void* dh) {
  dispatch_products(type, options_.tf32, "imitation", [&](auto products) {
    launch_imitation<decltype(products)>(cuda_stream(stream), shape, t, u, h, nullptr, loss, dh);
  });
}

void CudaBackend::imitation_free(Stream& stream, const ImitationShape& shape, DType type, const void* t,
                                 const void* u, const void* h, void* loss, void* dh, void* du) {
  const auto [rows, wide, thin, scale] = shape;
  // In f32 throughout what is no product with t: dh and du are small differences of large products.
  auto in_f32 = [&](Tensor& copy, int64_t lines, const void* x) {
    if (type == DType::f32) return x;
    copy = Tensor(stream, DType::f32, {lines, thin});
    cast(stream, lines * thin, type, x, DType::f32, copy.data());
    return static_cast<const void*>(copy.data());
  };
  Tensor u_copy, h_copy, gram(stream, DType::f32, {thin, thin}), hh(stream, DType::f32, {thin, thin}),
      hg(stream, DType::f32, {rows, thin});
  const void* u32 = in_f32(u_copy, wide, u);
  const void* h32 = in_f32(h_copy, rows, h);
  product(stream, {.m = thin, .n = thin, .k = wide, .transpose_a = true}, DType::f32, false, u32, u32, {},
          DType::f32, gram.data());
  product(stream, {.m = rows, .n = thin, .k = thin}, DType::f32, false, h32, gram.data(), {}, DType::f32,
          hg.data());
  dispatch_products(type, options_.tf32, "imitation_free", [&](auto products) {
    launch_imitation<decltype(products)>(cuda_stream(stream), shape, t, u, h, hg.as<float>(), loss, dh);
  });
  product(stream, {.m = thin, .n = thin, .k = rows, .transpose_a = true}, type, false, h, h, {}, DType::f32,
          hh.data());
  product(stream, {.m = wide, .n = thin, .k = thin}, DType::f32, false, u32, hh.data(),
          {.scale = 2 * scale, .accumulate = true}, DType::f32, du);
  matmul(stream, {.m = wide, .n = thin, .k = rows, .transpose_a = true}, type, t, h,
         {.scale = -2 * scale, .accumulate = true}, DType::f32, du);
}

}  // namespace taper
