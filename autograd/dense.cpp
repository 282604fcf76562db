#include "autograd/ops.h"

namespace taper {

namespace {

// The tensors one below the other, as `type`, made once per version.
Tensor stacked(Tape& tape, const std::vector<Parameter*>& parts, DType type, const Shape& shape) {
  const Parameter& first = *parts.front();
  if (parts.size() == 1 && first.value().dtype() == type) return first.value();
  auto make = [&backend = tape.backend, parts, type, shape](Stream& stream) {
    Tensor result(stream, type, shape);
    int64_t offset = 0;
    for (const Parameter* part : parts) {
      Tensor value = part->value();
      backend.cast(stream, value.size(), value.dtype(), value.data(), type,
                   result.slice(offset, value.size()).data());
      offset += value.size();
    }
    return result;
  };
  return first.store().derived(tape.stream, first.name + "/stacked/" + name(type),
                               {parts.begin(), parts.end()}, make);
}

bool any_trains(const Tape& tape, const std::vector<Parameter*>& parts) {
  for (const Parameter* part : parts)
    if (tape.trains(*part)) return true;
  return false;
}

// Calls add(into), which adds the stacked gradient to `into`, and hands each part its own.
template <typename F>
void add_gradient(Tape& tape, const std::vector<Parameter*>& parts, int64_t size, F add) {
  if (!any_trains(tape, parts)) return;
  if (parts.size() == 1) {
    add(tape.gradient(*parts.front()));
    return;
  }
  DType sums = accumulator(tape.type);
  Tensor all = Tensor::zeros(tape.stream, sums, {size});
  add(all.data());
  int64_t offset = 0;
  for (const Parameter* part : parts) {
    if (tape.trains(*part)) {
      void* gradient = tape.gradient(*part);
      tape.backend.add(tape.stream, part->size, sums, gradient, all.slice(offset, part->size).data(),
                       gradient);
    }
    offset += part->size;
  }
}

}  // namespace

Var dense(Tape& tape, const Var& x, const Dense& layer, Activation f) {
  const std::string& called = layer.weights.front()->name;
  int64_t in = layer.weights.front()->shape[1], out = 0, rows = x->value.size() / in;
  for (size_t i = 0; i < layer.weights.size(); ++i) {
    const Shape& shape = layer.weights[i]->shape;
    TAPER_CHECK(
        layer.biases.size() == layer.weights.size() && shape[1] == in && layer.biases[i]->size == shape[0],
        "{} is stacked on what does not fit it", called);
    out += shape[0];
  }
  TAPER_CHECK(x->value.shape().back() == in, "{} reads {} features, its input is {}", called, in,
              to_string(x->value.shape()));
  TAPER_CHECK(f == Activation::none || f == Activation::gelu || f == Activation::gelu_tanh,
              "{} is followed by gelu, gelu_tanh or nothing", called);
  DType sums = accumulator(tape.type);
  Tensor w = stacked(tape, layer.weights, tape.type, {out, in}), b = stacked(tape, layer.biases, sums, {out}),
         y = tape.empty({rows, out});
  bool trains = any_trains(tape, layer.weights) || any_trains(tape, layer.biases);
  bool needs = tape.recording() && (x->needs_gradient || trains);
  Tensor saved = needs && f != Activation::none ? tape.empty({rows, out}) : Tensor();
  tape.backend.matmul(
      tape.stream, {.m = rows, .n = out, .k = in, .transpose_b = true}, tape.type, x->value.data(), w.data(),
      {.bias = b.data(), .activation = f, .pre_activation = saved.data()}, tape.type, y.data());
  std::vector<const Parameter*> parameters(layer.weights.begin(), layer.weights.end());
  parameters.insert(parameters.end(), layer.biases.begin(), layer.biases.end());
  return tape.record(y, needs, std::move(parameters),
                     [&tape, x, layer, f, w, saved, rows, out, in, sums](const Tensor& gradient) {
                       Tensor dy = gradient;
                       if (saved.defined()) {
                         dy = tape.empty(gradient.shape());
                         tape.backend.activate_backward(tape.stream, f, dy.size(), tape.type, gradient.data(),
                                                        saved.data(), dy.data());
                       }
                       add_gradient(tape, layer.weights, out * in, [&](void* into) {
                         tape.backend.matmul(tape.stream, {.m = out, .n = in, .k = rows, .transpose_a = true},
                                             tape.type, dy.data(), x->value.data(), {.accumulate = true},
                                             sums, into);
                       });
                       add_gradient(tape, layer.biases, out, [&](void* into) {
                         tape.backend.sum_rows(tape.stream, rows, out, tape.type, dy.data(), into);
                       });
                       if (!x->needs_gradient) return;
                       Tensor dx = tape.empty(x->value.shape());
                       tape.backend.matmul(tape.stream, {.m = rows, .n = in, .k = out}, tape.type, dy.data(),
                                           w.data(), {}, tape.type, dx.data());
                       tape.accumulate(x, std::move(dx));
                     });
}

}  // namespace taper
