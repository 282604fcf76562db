#include "kernels/activation.h"

#include <cmath>
#include <numbers>

#include "kernels/reference/reference.h"
#include "runtime/error.h"
#include "runtime/philox.h"

namespace taper {

using namespace reference;

namespace {

// The argument of tanh in gelu's approximation, and its derivative.
constexpr double kCubic = 0.044715;
double gelu_tanh_argument(double x) {
  return std::sqrt(2 / std::numbers::pi) * (x + kCubic * std::pow(x, 3));
}
double gelu_tanh_argument_slope(double x) {
  return std::sqrt(2 / std::numbers::pi) * (1 + 3 * kCubic * std::pow(x, 2));
}
// Phi, the standard normal's distribution function, without the cancellation of 1 + erf far to the left.
double normal_distribution(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }
double normal_density(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); }

double activation_gradient(Activation f, double dy, double saved) {
  switch (f) {
    case Activation::none:
      return dy;
    case Activation::relu:
      return saved > 0 ? dy : 0;
    case Activation::tanh:
      return dy * (1 - saved * saved);
    case Activation::gelu:
      return dy * (normal_distribution(saved) + saved * normal_density(saved));
    case Activation::gelu_tanh: {
      double t = std::tanh(gelu_tanh_argument(saved));
      return dy * (0.5 * (1 + t) + 0.5 * saved * (1 - t * t) * gelu_tanh_argument_slope(saved));
    }
  }
  throw Failure("no activation has the number {}", static_cast<int>(f));
}

double load(DType type, const void* values, int64_t i) {
  switch (type) {
    case DType::f64:
      return static_cast<const double*>(values)[i];
    case DType::f32:
      return static_cast<const float*>(values)[i];
    case DType::bf16:
      return static_cast<float>(static_cast<const bf16*>(values)[i]);
    default:
      throw Failure("cast knows f64, f32 and bf16, not {}", name(type));
  }
}

void store(DType type, void* values, int64_t i, double value) {
  switch (type) {
    case DType::f64:
      static_cast<double*>(values)[i] = value;
      return;
    case DType::f32:
      static_cast<float*>(values)[i] = static_cast<float>(value);
      return;
    case DType::bf16:
      static_cast<bf16*>(values)[i] = bf16(static_cast<float>(value));
      return;
    default:
      throw Failure("cast knows f64, f32 and bf16, not {}", name(type));
  }
}

}  // namespace

double reference::activation(Activation f, double x) {
  switch (f) {
    case Activation::none:
      return x;
    case Activation::relu:
      return x < 0 ? 0 : x;
    case Activation::tanh:
      return std::tanh(x);
    case Activation::gelu:
      return x * normal_distribution(x);
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(gelu_tanh_argument(x)));
  }
  throw Failure("no activation has the number {}", static_cast<int>(f));
}

void ReferenceBackend::activate(Stream&, Activation f, int64_t count, DType type, const void* x, void* y) {
  require_double(type);
  for (int64_t i = 0; i < count; ++i) out(y)[i] = activation(f, in(x)[i]);
}

void ReferenceBackend::activate_backward(Stream&, Activation f, int64_t count, DType type, const void* dy,
                                         const void* saved, void* dx) {
  require_double(type);
  for (int64_t i = 0; i < count; ++i) out(dx)[i] = activation_gradient(f, in(dy)[i], in(saved)[i]);
}

void ReferenceBackend::add(Stream&, int64_t count, DType type, const void* a, const void* b, void* y) {
  require_double(type);
  for (int64_t i = 0; i < count; ++i) out(y)[i] = in(a)[i] + in(b)[i];
}

void ReferenceBackend::axpby(Stream&, int64_t count, DType type, double alpha, const void* x, double beta,
                             void* y) {
  require_double(type);
  for (int64_t i = 0; i < count; ++i) out(y)[i] = alpha * in(x)[i] + beta * in(y)[i];
}

// The one op of the reference that knows other types: they are its subject.
void ReferenceBackend::cast(Stream&, int64_t count, DType from_type, const void* from, DType to_type,
                            void* to) {
  for (int64_t i = 0; i < count; ++i) store(to_type, to, i, load(from_type, from, i));
}

void ReferenceBackend::transpose(Stream&, int64_t batch, int64_t rows, int64_t columns, DType type,
                                 const void* x, void* y) {
  require_double(type);
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j)
        out(y)[(b * columns + j) * rows + i] = in(x)[(b * rows + i) * columns + j];
}

void ReferenceBackend::dropout(Stream&, int64_t rows, int64_t features, DType type, double p, uint64_t key,
                               const int64_t* row_ids, const void* x, void* y) {
  require_double(type);
  TAPER_CHECK(p >= 0 && p < 1, "dropout with probability {}", p);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t f = 0; f < features; ++f) {
      auto id = static_cast<uint64_t>(row_ids != nullptr ? row_ids[r] : r);
      auto words = philox(
          {static_cast<uint32_t>(f / 4), static_cast<uint32_t>(id), static_cast<uint32_t>(id >> 32), 0}, key);
      bool kept = uniform(words[static_cast<size_t>(f % 4)]) >= p;
      int64_t i = r * features + f;
      out(y)[i] = kept ? in(x)[i] / (1 - p) : 0;
    }
}

}  // namespace taper
