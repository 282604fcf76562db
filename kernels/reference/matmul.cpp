#include "kernels/matmul.h"

#include "kernels/reference/reference.h"
#include "runtime/error.h"

namespace taper {

using namespace reference;

void ReferenceBackend::matmul(Stream&, const MatmulShape& s, DType type, const void* a, const void* b,
                              const MatmulEpilogue& e, DType out_type, void* result) {
  require_double(type);
  require_double(out_type);
  TAPER_CHECK(s.m > 0 && s.n > 0 && s.k > 0 && s.batch > 0, "matmul of {} x {} x {}, batch {}", s.m, s.n, s.k,
              s.batch);
  TAPER_CHECK(e.activation != Activation::relu && e.activation != Activation::tanh,
              "a matmul is followed by gelu, gelu_tanh or nothing");
  TAPER_CHECK(!e.accumulate || (e.bias == nullptr && e.activation == Activation::none &&
                                e.pre_activation == nullptr && e.residual == nullptr),
              "a matmul that accumulates has no other epilogue than scale");
  for (int64_t batch = 0; batch < s.batch; ++batch)
    for (int64_t row = 0; row < s.m; ++row)
      for (int64_t column = 0; column < s.n; ++column) {
        double product = 0;
        for (int64_t k = 0; k < s.k; ++k) {
          int64_t ai = batch * s.stride_a + (s.transpose_a ? k * s.m + row : row * s.k + k);
          int64_t bi = batch * s.stride_b + (s.transpose_b ? column * s.k + k : k * s.n + column);
          product += in(a)[ai] * in(b)[bi];
        }
        int64_t i = batch * s.stride_out + row * s.n + column;
        double value = e.scale * product;
        if (e.accumulate) {
          out(result)[i] += value;
          continue;
        }
        if (e.bias != nullptr) value += in(e.bias)[column];
        if (e.pre_activation != nullptr) out(e.pre_activation)[i] = value;
        value = activation(e.activation, value);
        if (e.residual != nullptr) value += in(e.residual)[i];
        out(result)[i] = value;
      }
}

void ReferenceBackend::sum_rows(Stream&, int64_t rows, int64_t columns, DType type, const void* x,
                                void* result) {
  require_double(type);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) out(result)[column] += in(x)[row * columns + column];
}

}  // namespace taper
