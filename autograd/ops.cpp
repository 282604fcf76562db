#include "autograd/ops.h"

namespace taper {

Tensor rounded(Tape& tape, const Parameter& parameter) {
  Tensor value = parameter.value();
  if (value.dtype() == tape.type) return value;
  return parameter.store().derived(tape.stream, parameter.name + "/" + name(tape.type), {&parameter},
                                   [&backend = tape.backend, &parameter, type = tape.type](Stream& stream) {
                                     Tensor result(stream, type, parameter.shape);
                                     Tensor value = parameter.value();
                                     backend.cast(stream, value.size(), value.dtype(), value.data(), type,
                                                  result.data());
                                     return result;
                                   });
}

namespace {

// y [rows, out] = x [rows, in] weight^T, of type `out_type`.
Var multiply(Tape& tape, const Var& x, const Parameter& weight, const Parameter* bias, DType out_type,
             Shape out_shape) {
  int64_t out = weight.shape[0], in = weight.shape[1], rows = x->value.size() / in;
  TAPER_CHECK(x->value.shape().back() == in, "{} reads {} features, its input is {}", weight.name, in,
              to_string(x->value.shape()));
  Tensor y(tape.stream, out_type, std::move(out_shape));
  Tensor w = rounded(tape, weight);
  tape.backend.matmul(tape.stream, {.m = rows, .n = out, .k = in, .transpose_b = true}, tape.type,
                      x->value.data(), w.data(), {.bias = bias ? bias->value().data() : nullptr}, out_type,
                      y.data());
  bool needs = x->needs_gradient || tape.trains(weight);
  return tape.record(y, needs, [&tape, x, &weight, bias, w, rows, out, in](const Tensor& gradient) {
    Tensor dy = gradient;
    if (dy.dtype() != tape.type) {
      dy = tape.empty(gradient.shape());
      tape.backend.cast(tape.stream, dy.size(), gradient.dtype(), gradient.data(), dy.dtype(), dy.data());
    }
    DType sums = accumulator(tape.type);
    if (tape.trains(weight))
      tape.backend.matmul(tape.stream, {.m = out, .n = in, .k = rows, .transpose_a = true}, tape.type,
                          dy.data(), x->value.data(), {.accumulate = true}, sums, tape.gradient(weight));
    if (bias != nullptr && tape.trains(*bias))
      tape.backend.sum_rows(tape.stream, rows, out, gradient.dtype(), gradient.data(), tape.gradient(*bias));
    if (!x->needs_gradient) return;
    Tensor dx = tape.empty(x->value.shape());
    tape.backend.matmul(tape.stream, {.m = rows, .n = in, .k = out}, tape.type, dy.data(), w.data(), {},
                        tape.type, dx.data());
    tape.accumulate(x, std::move(dx));
  });
}

}  // namespace

Var linear(Tape& tape, const Var& x, const Parameter& weight, const Parameter* bias) {
  return multiply(tape, x, weight, bias, accumulator(tape.type),
                  {x->value.size() / weight.shape[1], weight.shape[0]});
}

Var project(Tape& tape, const Var& x, const Parameter& weight) {
  Shape shape = x->value.shape();
  shape.back() = weight.shape[0];
  return multiply(tape, x, weight, nullptr, tape.type, std::move(shape));
}

Var activate(Tape& tape, Activation function, const Var& x) {
  Tensor y = tape.empty(x->value.shape());
  tape.backend.activate(tape.stream, function, y.size(), tape.type, x->value.data(), y.data());
  Tensor saved = function == Activation::relu || function == Activation::tanh ? y : x->value;
  return tape.record(y, x->needs_gradient, [&tape, function, x, saved](const Tensor& dy) {
    Tensor dx = tape.empty(dy.shape());
    tape.backend.activate_backward(tape.stream, function, dy.size(), tape.type, dy.data(), saved.data(),
                                   dx.data());
    tape.accumulate(x, std::move(dx));
  });
}

Var add(Tape& tape, const Var& a, const Var& b) {
  TAPER_CHECK(a->value.shape() == b->value.shape(), "{} + {}", to_string(a->value.shape()),
              to_string(b->value.shape()));
  Tensor y = tape.empty(a->value.shape());
  tape.backend.add(tape.stream, y.size(), tape.type, a->value.data(), b->value.data(), y.data());
  return tape.record(y, a->needs_gradient || b->needs_gradient, [&tape, a, b](const Tensor& dy) {
    tape.accumulate(a, dy);
    tape.accumulate(b, dy);
  });
}

Var max_pool(Tape& tape, const Var& x, int64_t size, int64_t stride, int64_t padding) {
  const Tensor& in = x->value;
  PoolShape shape{in.dim(0), in.dim(1), in.dim(2), in.dim(3), size, stride, padding};
  Tensor y = tape.empty({shape.n, shape.out_h(), shape.out_w(), shape.c});
  Tensor winner(tape.stream, DType::u8, y.shape());
  tape.backend.max_pool_forward(tape.stream, shape, tape.type, in.data(), y.data(), winner.as<uint8_t>());
  return tape.record(y, x->needs_gradient, [&tape, x, shape, winner](const Tensor& dy) {
    Tensor dx = tape.empty(x->value.shape());
    tape.backend.max_pool_backward(tape.stream, shape, tape.type, dy.data(), winner.as<uint8_t>(), dx.data());
    tape.accumulate(x, std::move(dx));
  });
}

Var global_average_pool(Tape& tape, const Var& x) {
  const Tensor& in = x->value;
  int64_t n = in.dim(0), pixels = in.dim(1) * in.dim(2), c = in.dim(3);
  Tensor y = tape.empty({n, c});
  tape.backend.average_pool_forward(tape.stream, n, pixels, c, tape.type, in.data(), y.data());
  return tape.record(y, x->needs_gradient, [&tape, x, n, pixels, c](const Tensor& dy) {
    Tensor dx = tape.empty(x->value.shape());
    tape.backend.average_pool_backward(tape.stream, n, pixels, c, tape.type, dy.data(), dx.data());
    tape.accumulate(x, std::move(dx));
  });
}

}  // namespace taper
