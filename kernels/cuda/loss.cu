// Losses on logits and the squared error, with their gradients (kernels/loss.h has formulas and shapes).
//
// A block has a row of [rows, classes]: its threads take 16 bytes at a time (single logits where the number
// of classes is ragged), side by side, and combine what they have in a fixed order. Logits are measured from
// the row's largest, so that no exponential overflows and logits of any size cost no digits. Each row leaves
// its part in f64 (or as counts); one block adds the parts in an order that their number alone decides.

#include <cmath>

#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/cuda.h"
#include "runtime/cuda/launch.h"

namespace taper {

using namespace cuda;

namespace {

constexpr int kThreads = 256;
/// Elements of squared_error to a block.
constexpr int64_t kSquaresPerBlock = 8192;

/// visit(c) for this thread's first class of kWidth, of all classes.
template <int kWidth, typename Visit>
__device__ __forceinline__ void for_classes(int64_t classes, Visit visit) {
  for (int64_t c = int64_t{threadIdx.x} * kWidth; c < classes; c += int64_t{blockDim.x} * kWidth) visit(c);
}

/// The row's largest logit; NaN if it holds one.
template <int kWidth>
__device__ __forceinline__ float largest_of(int64_t classes, const float* x) {
  float largest = -INFINITY;
  for_classes<kWidth>(classes, [&](int64_t c) {
    float values[kWidth];
    load(values, x + c, kWidth, true);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) largest = Max{}(largest, values[i]);
  });
  return block_reduce(largest, Max{}, -INFINITY);
}

/// dlogits may be null or logits.
template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_rows(int64_t classes, const float* logits, const int32_t* labels, double smoothing,
                       double* losses, float* dlogits) {
  const int64_t row = blockIdx.x, label = labels[row];
  const float* x = logits + row * classes;
  const float own = x[label];
  const float largest = largest_of<kWidth>(classes, x);
  float total = 0, distance = 0;
  for_classes<kWidth>(classes, [&](int64_t c) {
    float values[kWidth];
    load(values, x + c, kWidth, true);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      total += expf(values[i] - largest);
      distance += largest - values[i];
    }
  });
  total = block_reduce(total, Sum{}, 0.0f);
  const double each = smoothing / static_cast<double>(classes);
  // Without smoothing a class of -inf must cost nothing, and 0 times infinity is NaN.
  if (smoothing != 0) distance = block_reduce(distance, Sum{}, 0.0f);
  if (threadIdx.x == 0) {
    double loss = (1 - smoothing) * (static_cast<double>(largest) - static_cast<double>(own)) +
                  log(static_cast<double>(total));
    if (smoothing != 0) loss += each * static_cast<double>(distance);
    losses[row] = loss;
  }
  if (dlogits == nullptr) return;
  const auto others = static_cast<float>(each), hit = static_cast<float>(1 - smoothing);
  for_classes<kWidth>(classes, [&](int64_t c) {
    float values[kWidth];
    load(values, x + c, kWidth, true);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      values[i] = expf(values[i] - largest) / total - others;
      if (c + i == label) values[i] -= hit;
    }
    store(values, dlogits + row * classes + c, kWidth, true);
  });
}

/// ranks[row] = how many logits come before the label's; more than 5 for a row with a NaN.
template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    rank_rows(int64_t classes, const float* logits, const int32_t* labels, int32_t* ranks) {
  const int64_t row = blockIdx.x, label = labels[row];
  const float* x = logits + row * classes;
  const float own = x[label];
  int before = 0, nans = 0;
  for_classes<kWidth>(classes, [&](int64_t c) {
    float values[kWidth];
    load(values, x + c, kWidth, true);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      before += values[i] > own || (values[i] == own && c + i < label);
      nans += values[i] != values[i];
    }
  });
  before = block_reduce(before, Sum{}, 0);
  nans = block_reduce(nans, Sum{}, 0);
  if (threadIdx.x == 0) ranks[row] = nans > 0 ? 6 : before;
}

/// Of two rows of logits, the teacher's p and the student's q; dstudent may be null.
template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    kl_rows(int64_t classes, const float* teacher, const float* student, double temperature, double* losses,
            float* dstudent) {
  const int64_t row = blockIdx.x;
  const float *t = teacher + row * classes, *s = student + row * classes;
  const auto cold = static_cast<float>(1 / temperature), warm = static_cast<float>(temperature);
  const float largest_p = largest_of<kWidth>(classes, t), largest_q = largest_of<kWidth>(classes, s);
  auto visit_all = [&](auto visit) {
    for_classes<kWidth>(classes, [&](int64_t c) {
      float a[kWidth], b[kWidth];
      load(a, t + c, kWidth, true);
      load(b, s + c, kWidth, true);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        a[i] = (a[i] - largest_p) * cold;
        b[i] = (b[i] - largest_q) * cold;
      }
      visit(c, a, b);
    });
  };
  float total_p = 0, total_q = 0;
  visit_all([&](int64_t, const auto& a, const auto& b) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      total_p += expf(a[i]);
      total_q += expf(b[i]);
    }
  });
  total_p = block_reduce(total_p, Sum{}, 0.0f);
  total_q = block_reduce(total_q, Sum{}, 0.0f);
  const auto log_ratio =
      static_cast<float>(log(static_cast<double>(total_q)) - log(static_cast<double>(total_p)));
  float loss = 0;
  visit_all([&](int64_t c, const auto& a, const auto& b) {
    float gradient[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float p = expf(a[i]) / total_p, q = expf(b[i]) / total_q;
      // The limit of p log p where p has vanished, also where q has.
      if (p != 0) loss += p * (a[i] - b[i] + log_ratio);
      gradient[i] = warm * (q - p);
    }
    if (dstudent != nullptr) store(gradient, dstudent + row * classes + c, kWidth, true);
  });
  const double sum = block_reduce(static_cast<double>(loss), Sum{}, 0.0);
  if (threadIdx.x == 0) losses[row] = temperature * temperature * sum;
}

/// losses[block] = the sum of squares of its elements' differences.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    squared_error_blocks(int64_t count, const T* student, const T* target, float slope, double* losses,
                         T* dstudent, bool vectors) {
  constexpr int kWidth = kPerVector<T>;
  const int64_t begin = blockIdx.x * kSquaresPerBlock, end = min(count, begin + kSquaresPerBlock);
  double sum = 0;
  for (int64_t first = begin + threadIdx.x * kWidth; first < end; first += kThreads * kWidth) {
    T values[kWidth] = {}, wanted[kWidth] = {};
    load(values, student + first, end - first, vectors);
    load(wanted, target + first, end - first, vectors);
    float squares = 0;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float difference = to_float(values[i]) - to_float(wanted[i]);
      squares = fmaf(difference, difference, squares);
      values[i] = convert<T>(slope * difference);
    }
    sum += static_cast<double>(squares);
    store(values, dstudent + first, end - first, vectors);
  }
  sum = block_reduce(sum, Sum{}, 0.0);
  if (threadIdx.x == 0) losses[blockIdx.x] = sum;
}

/// One block.
__global__ void __launch_bounds__(kThreads)
    add_losses(int64_t count, const double* losses, double scale, float* loss) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += losses[i];
  sum = block_reduce(sum, Sum{}, 0.0);
  if (threadIdx.x == 0) *loss = static_cast<float>(scale * sum);
}

/// One block. counts[0], counts[1] = the ranks below 1 and 5.
__global__ void __launch_bounds__(kThreads) count_ranks(int64_t rows, const int32_t* ranks, int32_t* counts) {
  int first = 0, fifth = 0;
  for (int64_t i = threadIdx.x; i < rows; i += kThreads) {
    first += ranks[i] < 1;
    fifth += ranks[i] < 5;
  }
  first = block_reduce(first, Sum{}, 0);
  fifth = block_reduce(fifth, Sum{}, 0);
  if (threadIdx.x == 0) {
    counts[0] = first;
    counts[1] = fifth;
  }
}

/// use(width, threads) for rows of `classes` logits: a thread for every 8, in whole warps.
template <typename Use>
void with_row_block(DType type, const char* op, int64_t classes, bool all_aligned, Use&& use) {
  TAPER_CHECK(type == DType::f32, "{} on CUDA takes logits in f32, not in {}", op, taper::name(type));
  const auto warps = static_cast<int>(std::min<int64_t>(kThreads / kWarp, (classes + 255) / 256));
  if (all_aligned && classes % kPerVector<float> == 0)
    use(std::integral_constant<int, kPerVector<float>>(), warps * kWarp);
  else
    use(std::integral_constant<int, 1>(), warps * kWarp);
}

void launch_add_losses(CudaStream& stream, int64_t count, const double* losses, double scale, void* loss) {
  launch(add_losses, 1, kThreads, 0, stream.handle(), count, losses, scale, static_cast<float*>(loss));
}

}  // namespace

void CudaBackend::cross_entropy(Stream& stream, int64_t rows, int64_t classes, DType type, const void* logits,
                                const int32_t* labels, double smoothing, void* loss, void* dlogits) {
  CudaStream& queue = cuda_stream(stream);
  auto* losses = static_cast<double*>(queue.scratch(rows * int64_t{sizeof(double)}));
  with_row_block(type, "cross_entropy", classes, aligned(logits, dlogits), [&](auto width, int threads) {
    launch(cross_entropy_rows<width()>, blocks_for(rows, 1), threads, 0, queue.handle(), classes,
           static_cast<const float*>(logits), labels, smoothing, losses, static_cast<float*>(dlogits));
  });
  launch_add_losses(queue, rows, losses, 1, loss);
}

void CudaBackend::count_correct(Stream& stream, int64_t rows, int64_t classes, DType type, const void* logits,
                                const int32_t* labels, int32_t* counts) {
  CudaStream& queue = cuda_stream(stream);
  auto* ranks = static_cast<int32_t*>(queue.scratch(rows * int64_t{sizeof(int32_t)}));
  with_row_block(type, "count_correct", classes, aligned(logits), [&](auto width, int threads) {
    launch(rank_rows<width()>, blocks_for(rows, 1), threads, 0, queue.handle(), classes,
           static_cast<const float*>(logits), labels, ranks);
  });
  launch(count_ranks, 1, kThreads, 0, queue.handle(), rows, ranks, counts);
}

void CudaBackend::kl_divergence(Stream& stream, int64_t rows, int64_t classes, DType type,
                                const void* teacher, const void* student, double temperature, void* loss,
                                void* dstudent) {
  CudaStream& queue = cuda_stream(stream);
  auto* losses = static_cast<double*>(queue.scratch(rows * int64_t{sizeof(double)}));
  const bool all_aligned = aligned(teacher, student, dstudent);
  with_row_block(type, "kl_divergence", classes, all_aligned, [&](auto width, int threads) {
    launch(kl_rows<width()>, blocks_for(rows, 1), threads, 0, queue.handle(), classes,
           static_cast<const float*>(teacher), static_cast<const float*>(student), temperature, losses,
           static_cast<float*>(dstudent));
  });
  launch_add_losses(queue, rows, losses, 1, loss);
}

void CudaBackend::squared_error(Stream& stream, int64_t count, DType type, const void* student,
                                const void* target, double scale, void* loss, void* dstudent) {
  CudaStream& queue = cuda_stream(stream);
  const uint32_t blocks = blocks_for(count, kSquaresPerBlock);
  auto* losses = static_cast<double*>(queue.scratch(blocks * int64_t{sizeof(double)}));
  dispatch(type, "squared_error", [&](auto zero) {
    using T = decltype(zero);
    launch(squared_error_blocks<T>, blocks, kThreads, 0, queue.handle(), count,
           static_cast<const T*>(student), static_cast<const T*>(target), static_cast<float>(2 * scale),
           losses, static_cast<T*>(dstudent), aligned(student, target, dstudent));
  });
  launch_add_losses(queue, blocks, losses, scale, loss);
}

}  // namespace taper
