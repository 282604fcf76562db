// Losses of logits, and the squared error.

#include "kernels/cpu/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/loss.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace taper::HWY_NAMESPACE {
namespace {

/// The loss of one row. Measured from the largest logit, so that no exponential overflows and logits of any
/// size cost no digits.
double cross_entropy_row(int64_t classes, const float* x, int32_t label, double smoothing, float* dx) {
  const V largest = splat(maximum(classes, x));
  const double total = sum(
      classes, [=](V v) HWY_ATTR { return exponential(hn::Sub(v, largest)); }, x);
  const double below = static_cast<double>(hn::GetLane(largest)) - x[label];
  double loss = (1 - smoothing) * below + std::log(total);
  const double each = smoothing / static_cast<double>(classes);
  // Without smoothing a class of -inf must cost nothing, and 0 times infinity is NaN.
  if (smoothing != 0)
    loss += each * sum(
                       classes, [=](V v) HWY_ATTR { return hn::Sub(largest, v); }, x);
  if (dx != nullptr) {
    const V factor = splat(1 / total), others = splat(each);
    map(
        0, classes, dx,
        [=](V v) HWY_ATTR { return hn::MulSub(exponential(hn::Sub(v, largest)), factor, others); }, x);
    dx[label] -= static_cast<float>(1 - smoothing);
  }
  return loss;
}

void cross_entropy_loops(int threads, int64_t rows, int64_t classes, const float* logits,
                         const int32_t* labels, double smoothing, float* dlogits, double* losses) {
  for_parts(threads, rows, std::max<int64_t>(1, kGrain / classes), [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      losses[r] = cross_entropy_row(classes, logits + r * classes, labels[r], smoothing,
                                    dlogits == nullptr ? nullptr : dlogits + r * classes);
  });
}

/// How many logits come before the label's; `classes` for a row with a NaN.
int64_t rank_of_label(int64_t classes, const float* x, int32_t label) {
  const float own = x[label];
  int64_t before = 0, nans = 0;
  for (int64_t c = 0; c < classes; ++c) {
    before += static_cast<int64_t>(x[c] > own) + static_cast<int64_t>((x[c] == own) & (c < label));
    nans += static_cast<int64_t>(x[c] != x[c]);
  }
  return nans > 0 ? classes : before;
}

void count_loops(int64_t rows, int64_t classes, const float* logits, const int32_t* labels, int32_t* counts) {
  counts[0] = counts[1] = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t rank = rank_of_label(classes, logits + r * classes, labels[r]);
    counts[0] += rank < std::min<int64_t>(1, classes);
    counts[1] += rank < std::min<int64_t>(5, classes);
  }
}

/// KL(p || q) of one row and, where wanted, T (q - p).
double kl_row(int64_t classes, const float* teacher, const float* student, double temperature, float* d) {
  const V cold = splat(1 / temperature);
  const V largest_p = splat(maximum(classes, teacher)), largest_q = splat(maximum(classes, student));
  auto scaled = [=](V v, V largest) HWY_ATTR { return hn::Mul(hn::Sub(v, largest), cold); };
  const double total_p = sum(
      classes, [=](V v) HWY_ATTR { return exponential(scaled(v, largest_p)); }, teacher);
  const double total_q = sum(
      classes, [=](V v) HWY_ATTR { return exponential(scaled(v, largest_q)); }, student);
  const V factor_p = splat(1 / total_p), factor_q = splat(1 / total_q);
  const V log_ratio = splat(std::log(total_q) - std::log(total_p));
  const double loss = sum(
      classes,
      [=](V t, V s) HWY_ATTR {
        const V a = scaled(t, largest_p);
        const V p = hn::Mul(exponential(a), factor_p);
        const V ratio = hn::Add(hn::Sub(a, scaled(s, largest_q)), log_ratio);
        // The limit of p log p where p has vanished, also where q has.
        return hn::IfThenElse(hn::Eq(p, hn::Zero(kFloats)), hn::Zero(kFloats), hn::Mul(p, ratio));
      },
      teacher, student);
  if (d != nullptr)
    map(
        0, classes, d,
        [=](V t, V s) HWY_ATTR {
          const V p = hn::Mul(exponential(scaled(t, largest_p)), factor_p);
          const V q = hn::Mul(exponential(scaled(s, largest_q)), factor_q);
          return hn::Mul(splat(temperature), hn::Sub(q, p));
        },
        teacher, student);
  return temperature * temperature * loss;
}

void kl_loops(int threads, int64_t rows, int64_t classes, const float* teacher, const float* student,
              double temperature, float* dstudent, double* losses) {
  for_parts(threads, rows, std::max<int64_t>(1, kGrain / classes), [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      losses[r] = kl_row(classes, teacher + r * classes, student + r * classes, temperature,
                         dstudent == nullptr ? nullptr : dstudent + r * classes);
  });
}

/// losses[i] = the sum of squares of part i of `grain` elements.
void squared_error_loops(int threads, int64_t count, DType type, const void* student, const void* target,
                         double scale, int64_t grain, double* losses, void* dstudent) {
  with_type(type, [=](auto t) HWY_ATTR {
    using T = decltype(t);
    for_parts(threads, count, grain, [=](int64_t begin, int64_t end) HWY_ATTR {
      auto* s = static_cast<const T*>(student);
      auto* wanted = static_cast<const T*>(target);
      losses[begin / grain] = sum(
          end - begin,
          [](V a, V b) HWY_ATTR {
            const V difference = hn::Sub(a, b);
            return hn::Mul(difference, difference);
          },
          s + begin, wanted + begin);
      map(
          begin, end, static_cast<T*>(dstudent),
          [=](V a, V b) HWY_ATTR { return hn::Mul(splat(2 * scale), hn::Sub(a, b)); }, s, wanted);
    });
  });
}

}  // namespace
}  // namespace taper::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <numeric>
#include <vector>

namespace taper {
namespace {

HWY_EXPORT(cross_entropy_loops);
HWY_EXPORT(count_loops);
HWY_EXPORT(kl_loops);
HWY_EXPORT(squared_error_loops);

void require_f32(DType type) {
  TAPER_CHECK(type == DType::f32, "the cpu backend's logits are f32, not {}", taper::name(type));
}

float total(const std::vector<double>& parts, double scale = 1) {
  return static_cast<float>(scale * std::accumulate(parts.begin(), parts.end(), 0.0));
}

}  // namespace

void CpuBackend::cross_entropy(Stream& stream, int64_t rows, int64_t classes, DType type, const void* logits,
                               const int32_t* labels, double smoothing, void* loss, void* dlogits) {
  require_f32(type);
  std::vector<double> losses(static_cast<size_t>(rows));
  HWY_DYNAMIC_DISPATCH(cross_entropy_loops)
  (cpu_stream(stream).threads(), rows, classes, static_cast<const float*>(logits), labels, smoothing,
   static_cast<float*>(dlogits), losses.data());
  *static_cast<float*>(loss) = total(losses);
}

void CpuBackend::count_correct(Stream&, int64_t rows, int64_t classes, DType type, const void* logits,
                               const int32_t* labels, int32_t* counts) {
  require_f32(type);
  HWY_DYNAMIC_DISPATCH(count_loops)(rows, classes, static_cast<const float*>(logits), labels, counts);
}

void CpuBackend::kl_divergence(Stream& stream, int64_t rows, int64_t classes, DType type, const void* teacher,
                               const void* student, double temperature, void* loss, void* dstudent) {
  require_f32(type);
  std::vector<double> losses(static_cast<size_t>(rows));
  HWY_DYNAMIC_DISPATCH(kl_loops)
  (cpu_stream(stream).threads(), rows, classes, static_cast<const float*>(teacher),
   static_cast<const float*>(student), temperature, static_cast<float*>(dstudent), losses.data());
  *static_cast<float*>(loss) = total(losses);
}

void CpuBackend::squared_error(Stream& stream, int64_t count, DType type, const void* student,
                               const void* target, double scale, void* loss, void* dstudent) {
  constexpr int64_t kPart = 16384;
  std::vector<double> losses(static_cast<size_t>(count / kPart + 1));
  HWY_DYNAMIC_DISPATCH(squared_error_loops)
  (cpu_stream(stream).threads(), count, type, student, target, scale, kPart, losses.data(), dstudent);
  *static_cast<float*>(loss) = total(losses, scale);
}

}  // namespace taper
#endif  // HWY_ONCE
