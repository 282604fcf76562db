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

Var linear(Tape& tape, const Var& x, const Parameter& weight, const Parameter* bias) {
  int64_t out = weight.shape[0], in = weight.shape[1], rows = x->value.size() / in;
  TAPER_CHECK(x->value.shape().back() == in, "{} reads {} features, its input is {}", weight.name, in,
              to_string(x->value.shape()));
  DType sums = accumulator(tape.type);
  Tensor y(tape.stream, sums, {rows, out});
  Tensor w = rounded(tape, weight);
  tape.backend.matmul(tape.stream, {.m = rows, .n = out, .k = in, .transpose_b = true}, tape.type,
                      x->value.data(), w.data(), {.bias = bias ? bias->value().data() : nullptr}, sums,
                      y.data());
  bool needs = x->needs_gradient || tape.trains(weight) || (bias != nullptr && tape.trains(*bias));
  return tape.record(
      y, needs, bias ? std::vector{&weight, bias} : std::vector{&weight},
      [&tape, x, &weight, bias, w, rows, out, in, sums](const Tensor& gradient) {
        Tensor dy = gradient;
        if (tape.type != sums) {
          dy = tape.empty(gradient.shape());
          tape.backend.cast(tape.stream, dy.size(), sums, gradient.data(), tape.type, dy.data());
        }
        if (tape.trains(weight))
          tape.backend.matmul(tape.stream, {.m = out, .n = in, .k = rows, .transpose_a = true}, tape.type,
                              dy.data(), x->value.data(), {.accumulate = true}, sums, tape.gradient(weight));
        if (bias != nullptr && tape.trains(*bias))
          tape.backend.sum_rows(tape.stream, rows, out, sums, gradient.data(), tape.gradient(*bias));
        if (!x->needs_gradient) return;
        Tensor dx = tape.empty(x->value.shape());
        tape.backend.matmul(tape.stream, {.m = rows, .n = in, .k = out}, tape.type, dy.data(), w.data(), {},
                            tape.type, dx.data());
        tape.accumulate(x, std::move(dx));
      });
}

Var bridge(Tape& tape, const Var& x, const Parameter& lower, const Parameter& lift) {
  int64_t thin = lower.shape[0], wide = lower.shape[1], rows = x->value.size() / thin;
  TAPER_CHECK(x->value.shape().back() == thin, "{} bridges {} channels, its input is {}", lower.name, thin,
              to_string(x->value.shape()));
  DType sums = accumulator(tape.type);
  // The product is formed in the accumulator type and rounded once.
  Tensor product = lower.store().derived(
      tape.stream, lower.name + "/product/" + name(tape.type), {&lower, &lift},
      [&backend = tape.backend, &lower, &lift, type = tape.type, sums, thin, wide](Stream& stream) {
        Tensor p(stream, sums, {thin, thin}), result(stream, type, {thin, thin});
        backend.matmul(stream, {.m = thin, .n = thin, .k = wide}, sums, lower.value().data(),
                       lift.value().data(), {}, sums, p.data());
        if (type == sums) return p;
        backend.cast(stream, p.size(), sums, p.data(), type, result.data());
        return result;
      });
  Tensor y = tape.empty(x->value.shape());
  tape.backend.matmul(tape.stream, {.m = rows, .n = thin, .k = thin, .transpose_b = true}, tape.type,
                      x->value.data(), product.data(), {}, tape.type, y.data());
  bool needs = x->needs_gradient || tape.trains(lower) || tape.trains(lift);
  return tape.record(
      y, needs, {&lower, &lift},
      [&tape, x, &lower, &lift, product, rows, thin, wide, sums](const Tensor& dy) {
        Backend& backend = tape.backend;
        if (tape.trains(lower) || tape.trains(lift)) {
          Tensor dp(tape.stream, sums, {thin, thin});
          backend.matmul(tape.stream, {.m = thin, .n = thin, .k = rows, .transpose_a = true}, tape.type,
                         dy.data(), x->value.data(), {}, sums, dp.data());
          if (tape.trains(lower))
            backend.matmul(tape.stream, {.m = thin, .n = wide, .k = thin, .transpose_b = true}, sums,
                           dp.data(), lift.value().data(), {.accumulate = true}, sums, tape.gradient(lower));
          if (tape.trains(lift))
            backend.matmul(tape.stream, {.m = wide, .n = thin, .k = thin, .transpose_a = true}, sums,
                           lower.value().data(), dp.data(), {.accumulate = true}, sums, tape.gradient(lift));
        }
        if (!x->needs_gradient) return;
        Tensor dx = tape.empty(x->value.shape());
        backend.matmul(tape.stream, {.m = rows, .n = thin, .k = thin}, tape.type, dy.data(), product.data(),
                       {}, tape.type, dx.data());
        tape.accumulate(x, std::move(dx));
      });
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
