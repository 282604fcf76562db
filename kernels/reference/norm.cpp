#include "kernels/norm.h"

#include <cmath>

#include "kernels/reference/reference.h"
#include "runtime/error.h"

namespace taper {

using namespace reference;

void ReferenceBackend::batch_norm_forward(Stream&, const BatchNormShape& shape, DType type, const void* x,
                                          const void* gamma, const void* beta, const void* residual,
                                          double eps, void* y, void* mean, void* rstd, void* variance) {
  require_double(type);
  auto [rows, channels, relu] = shape;
  if (rows < 2)
    throw Failure("batch normalisation over {} value per channel: it takes at least 2 (a larger shard)",
                  rows);
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0, squares = 0;
    for (int64_t r = 0; r < rows; ++r) sum += in(x)[r * channels + c];
    double m = sum / static_cast<double>(rows);
    for (int64_t r = 0; r < rows; ++r) squares += std::pow(in(x)[r * channels + c] - m, 2);
    out(mean)[c] = m;
    out(rstd)[c] = 1 / std::sqrt(squares / static_cast<double>(rows) + eps);
    out(variance)[c] = squares / static_cast<double>(rows - 1);
  }
  for (int64_t i = 0; i < rows * channels; ++i) {
    int64_t c = i % channels;
    double value = in(gamma)[c] * (in(x)[i] - in(mean)[c]) * in(rstd)[c] + in(beta)[c];
    if (residual != nullptr) value += in(residual)[i];
    out(y)[i] = relu ? activation(Activation::relu, value) : value;
  }
}

void ReferenceBackend::batch_norm_backward(Stream&, const BatchNormShape& shape, DType type, const void* dy,
                                           const void* x, const void* y, const void* gamma, const void* mean,
                                           const void* rstd, bool fixed_statistics, void* dx, void* dresidual,
                                           void* dgamma, void* dbeta) {
  require_double(type);
  int64_t rows = shape.rows, channels = shape.channels;
  for (int64_t c = 0; c < channels; ++c) {
    auto g = [&](int64_t i) { return !shape.relu || in(y)[i] > 0 ? in(dy)[i] : 0; };
    auto xhat = [&](int64_t i) { return (in(x)[i] - in(mean)[c]) * in(rstd)[c]; };
    double sum_g = 0, sum_g_xhat = 0;
    for (int64_t r = 0; r < rows; ++r) {
      int64_t i = r * channels + c;
      sum_g += g(i);
      sum_g_xhat += g(i) * xhat(i);
    }
    out(dgamma)[c] += sum_g_xhat;
    out(dbeta)[c] += sum_g;
    for (int64_t r = 0; r < rows; ++r) {
      int64_t i = r * channels + c;
      double centred = g(i);
      if (dresidual != nullptr) out(dresidual)[i] = centred;
      if (!fixed_statistics) {
        centred -= sum_g / static_cast<double>(rows) + xhat(i) * sum_g_xhat / static_cast<double>(rows);
      }
      out(dx)[i] = in(gamma)[c] * in(rstd)[c] * centred;
    }
  }
}

void ReferenceBackend::batch_norm_inference(Stream&, const BatchNormShape& shape, DType type, const void* x,
                                            const void* scale, const void* shift, const void* residual,
                                            void* y) {
  require_double(type);
  for (int64_t i = 0; i < shape.rows * shape.channels; ++i) {
    int64_t c = i % shape.channels;
    double value = in(x)[i] * in(scale)[c] + in(shift)[c];
    if (residual != nullptr) value += in(residual)[i];
    out(y)[i] = shape.relu ? activation(Activation::relu, value) : value;
  }
}

void ReferenceBackend::layer_norm_forward(Stream&, int64_t rows, int64_t features, DType type, const void* x,
                                          const void* residual, const void* gamma, const void* beta,
                                          double eps, void* sum, void* y, void* mean, void* rstd) {
  require_double(type);
  TAPER_CHECK(residual == nullptr || sum != nullptr, "layer normalisation stores the sum with a residual");
  for (int64_t r = 0; r < rows; ++r) {
    auto value = [&](int64_t f) {
      int64_t i = r * features + f;
      return residual != nullptr ? in(x)[i] + in(residual)[i] : in(x)[i];
    };
    double total = 0, squares = 0;
    for (int64_t f = 0; f < features; ++f) total += value(f);
    double m = total / static_cast<double>(features);
    for (int64_t f = 0; f < features; ++f) squares += std::pow(value(f) - m, 2);
    out(mean)[r] = m;
    out(rstd)[r] = 1 / std::sqrt(squares / static_cast<double>(features) + eps);
    for (int64_t f = 0; f < features; ++f) {
      if (sum != nullptr) out(sum)[r * features + f] = value(f);
      out(y)[r * features + f] = in(gamma)[f] * (value(f) - m) * in(rstd)[r] + in(beta)[f];
    }
  }
}

void ReferenceBackend::layer_norm_backward(Stream&, int64_t rows, int64_t features, DType type,
                                           const void* dy, const void* sum, const void* gamma,
                                           const void* mean, const void* rstd, void* dx, void* dgamma,
                                           void* dbeta) {
  require_double(type);
  for (int64_t r = 0; r < rows; ++r) {
    auto xhat = [&](int64_t f) { return (in(sum)[r * features + f] - in(mean)[r]) * in(rstd)[r]; };
    auto g = [&](int64_t f) { return in(dy)[r * features + f] * in(gamma)[f]; };
    double sum_g = 0, sum_g_xhat = 0;
    for (int64_t f = 0; f < features; ++f) {
      sum_g += g(f);
      sum_g_xhat += g(f) * xhat(f);
      out(dgamma)[f] += in(dy)[r * features + f] * xhat(f);
      out(dbeta)[f] += in(dy)[r * features + f];
    }
    for (int64_t f = 0; f < features; ++f)
      out(dx)[r * features + f] =
          in(rstd)[r] * (g(f) - (sum_g + xhat(f) * sum_g_xhat) / static_cast<double>(features));
  }
}

}  // namespace taper
