#include <cmath>
#include <vector>

#include "autograd/ops.h"

namespace taper {

ConvShape Conv::shape(const Tensor& x) const {
  TAPER_CHECK(x.shape().size() == 4 && x.dim(3) == filter->shape[3] * groups,
              "{} reads {} channels, its input is {}", filter->name, filter->shape[3] * groups,
              to_string(x.shape()));
  ConvShape result{.n = x.dim(0),
                   .h = x.dim(1),
                   .w = x.dim(2),
                   .c = x.dim(3),
                   .k = filter->shape[0],
                   .r = filter->shape[1],
                   .s = filter->shape[2],
                   .stride = stride,
                   .padding = padding,
                   .dilation = dilation,
                   .groups = groups};
  check(result);
  return result;
}

namespace {

Shape output(const ConvShape& s) { return {s.n, s.out_h(), s.out_w(), s.k}; }

// The filter as `pass` reads it: rounded and packed once per version.
Tensor packed(Tape& tape, const Parameter& filter, const ConvShape& shape, ConvPass pass) {
  FilterFormat format = tape.backend.filter_format(tape.stream, shape, tape.type, pass);
  auto make = [&backend = tape.backend, &filter, shape, type = tape.type, pass,
               bytes = format.bytes](Stream& stream) {
    Tensor result(stream, DType::u8, {bytes});
    backend.pack_filter(stream, shape, type, pass, filter.value().data(), result.data());
    return result;
  };
  return filter.store().derived(tape.stream, filter.name + "/" + format.key, {&filter}, make);
}

Tensor forward(Tape& tape, const Tensor& x, const Parameter& filter, const ConvShape& shape) {
  Tensor y = tape.empty(output(shape));
  Tensor w = packed(tape, filter, shape, ConvPass::forward);
  tape.backend.conv_forward(tape.stream, shape, tape.type, x.data(), w.data(), {}, y.data());
  return y;
}

void backward(Tape& tape, const Var& x, const Parameter& filter, const ConvShape& shape, const Tensor& dy) {
  if (tape.trains(filter))
    tape.backend.conv_backward_filter(tape.stream, shape, tape.type, x->value.data(), dy.data(),
                                      tape.gradient(filter));
  if (!x->needs_gradient) return;
  Tensor dx = tape.empty(x->value.shape());
  Tensor w = packed(tape, filter, shape, ConvPass::backward_data);
  tape.backend.conv_backward_data(tape.stream, shape, tape.type, dy.data(), w.data(), dx.data());
  tape.accumulate(x, std::move(dx));
}

// gamma rstd and beta - mean gamma rstd of the running statistics, [2, channels] of accumulator type. Made on
// the host: tiny, and once per version.
Tensor scale_and_shift(Stream& stream, const BatchNorm& norm) {
  auto compute = [&]<typename T>(T) {
    auto gamma = norm.weight->value().host<T>(stream), beta = norm.bias->value().template host<T>(stream);
    auto mean = norm.running_mean->value().host<T>(stream),
         variance = norm.running_variance->value().template host<T>(stream);
    size_t channels = gamma.size();
    std::vector<T> result(2 * channels);
    for (size_t c = 0; c < channels; ++c) {
      double scale = gamma[c] / std::sqrt(static_cast<double>(variance[c]) + norm.eps);
      result[c] = static_cast<T>(scale);
      result[channels + c] = static_cast<T>(beta[c] - mean[c] * scale);
    }
    return Tensor::from<T>(stream, {2, static_cast<int64_t>(channels)}, result);
  };
  return norm.weight->value().dtype() == DType::f64 ? compute(double{}) : compute(float{});
}

std::vector<const Parameter*> sources(const BatchNorm& norm) {
  return {norm.weight, norm.bias, norm.running_mean, norm.running_variance};
}

Tensor running_scale_and_shift(Tape& tape, const BatchNorm& norm) {
  return norm.weight->store().derived(tape.stream, norm.weight->name + "/scale_and_shift", sources(norm),
                                      [norm](Stream& stream) { return scale_and_shift(stream, norm); });
}

// The filter times each output channel's scale, packed for the forward pass.
Tensor folded(Tape& tape, const Parameter& filter, const BatchNorm& norm, const ConvShape& shape) {
  FilterFormat format = tape.backend.filter_format(tape.stream, shape, tape.type, ConvPass::forward);
  auto make = [&backend = tape.backend, &filter, norm, shape, type = tape.type,
               bytes = format.bytes](Stream& stream) {
    Tensor scale = scale_and_shift(stream, norm);
    Tensor result(stream, DType::u8, {bytes});
    auto fold = [&]<typename T>(T) {
      auto values = filter.value().host<T>(stream);
      auto scales = scale.template host<T>(stream);
      size_t each = values.size() / static_cast<size_t>(shape.k);
      for (size_t i = 0; i < values.size(); ++i) values[i] *= scales[i / each];
      Tensor product = Tensor::from<T>(stream, filter.shape, values);
      backend.pack_filter(stream, shape, type, ConvPass::forward, product.data(), result.data());
    };
    filter.value().dtype() == DType::f64 ? fold(double{}) : fold(float{});
    return result;
  };
  std::vector<const Parameter*> all = sources(norm);
  all.push_back(&filter);
  return filter.store().derived(tape.stream, filter.name + "/folded/" + format.key, all, make);
}

// What the backward of a batch norm needs beside the gradient.
struct NormState {
  BatchNormShape shape;
  Tensor x, y, mean, rstd;  // y only with relu
  bool fixed;
};

void norm_backward(Tape& tape, const BatchNorm& norm, const NormState& state, const Tensor& dy, void* dx,
                   const Var& residual) {
  DType type = accumulator(tape.type);
  // The kernel computes both; the gradient of what is frozen goes nowhere.
  bool frozen = !tape.trains(*norm.weight) || !tape.trains(*norm.bias);
  Tensor unused = frozen ? Tensor::zeros(tape.stream, type, {2, state.shape.channels}) : Tensor();
  void* dgamma = tape.trains(*norm.weight) ? tape.gradient(*norm.weight) : unused.data();
  void* dbeta = tape.trains(*norm.bias) ? tape.gradient(*norm.bias)
                                        : unused.slice(state.shape.channels, state.shape.channels).data();
  Tensor dresidual = residual && residual->needs_gradient ? tape.empty(dy.shape()) : Tensor();
  tape.backend.batch_norm_backward(tape.stream, state.shape, tape.type, dy.data(), state.x.data(),
                                   state.shape.relu ? state.y.data() : nullptr, norm.weight->value().data(),
                                   state.mean.data(), state.rstd.data(), state.fixed, dx, dresidual.data(),
                                   dgamma, dbeta);
  if (dresidual.defined()) tape.accumulate(residual, std::move(dresidual));
}

// y from x; fills the state that the backward needs.
Tensor norm_forward(Tape& tape, const Tensor& x, const BatchNorm& norm, const Var& residual,
                    NormState& state) {
  DType type = accumulator(tape.type);
  int64_t channels = state.shape.channels;
  const void* add = residual ? residual->value.data() : nullptr;
  TAPER_CHECK(!residual || residual->value.shape() == x.shape(), "{}: a residual of {} for {}",
              norm.weight->name, residual ? to_string(residual->value.shape()) : "", to_string(x.shape()));
  Tensor y = tape.empty(x.shape());
  state.fixed = !tape.training;
  state.x = x;
  if (state.fixed) {
    Tensor scale = running_scale_and_shift(tape, norm);
    tape.backend.batch_norm_inference(tape.stream, state.shape, tape.type, x.data(), scale.data(),
                                      scale.slice(channels, channels).data(), add, y.data());
    if (tape.recording()) {
      state.mean = norm.running_mean->value();
      state.rstd = norm.weight->store().derived(
          tape.stream, norm.weight->name + "/rstd", {norm.running_variance}, [norm](Stream& stream) {
            auto compute = [&]<typename T>(T) {
              auto rstd = norm.running_variance->value().host<T>(stream);
              for (T& v : rstd) v = static_cast<T>(1 / std::sqrt(static_cast<double>(v) + norm.eps));
              return Tensor::from<T>(stream, norm.running_variance->shape, rstd);
            };
            return norm.weight->value().dtype() == DType::f64 ? compute(double{}) : compute(float{});
          });
    }
  } else {
    state.mean = Tensor(tape.stream, type, {channels});
    state.rstd = Tensor(tape.stream, type, {channels});
    Tensor variance(tape.stream, type, {channels});
    tape.backend.batch_norm_forward(tape.stream, state.shape, tape.type, x.data(),
                                    norm.weight->value().data(), norm.bias->value().data(), add, norm.eps,
                                    y.data(), state.mean.data(), state.rstd.data(), variance.data());
    if (void* mean = tape.report(*norm.running_mean)) {
      tape.stream.copy(mean, state.mean.data(), state.mean.bytes());
      tape.stream.copy(tape.report(*norm.running_variance), variance.data(), variance.bytes());
    }
  }
  if (state.shape.relu) state.y = y;
  return y;
}

bool trains(const Tape& tape, const BatchNorm& norm) {
  return tape.trains(*norm.weight) || tape.trains(*norm.bias);
}

BatchNormShape norm_shape(const Tensor& x, const BatchNorm& norm, bool relu) {
  int64_t channels = norm.weight->size;
  TAPER_CHECK(x.shape().back() == channels, "{} normalises {} channels, its input is {}", norm.weight->name,
              channels, to_string(x.shape()));
  return {x.size() / channels, channels, relu};
}

}  // namespace

Var conv2d(Tape& tape, const Var& x, const Conv& conv) {
  ConvShape shape = conv.shape(x->value);
  bool needs = x->needs_gradient || tape.trains(*conv.filter);
  return tape.record(
      forward(tape, x->value, *conv.filter, shape), needs, {conv.filter},
      [&tape, x, filter = conv.filter, shape](const Tensor& dy) { backward(tape, x, *filter, shape, dy); });
}

Var batch_norm(Tape& tape, const Var& x, const BatchNorm& norm, const Var& residual, bool relu) {
  NormState state{norm_shape(x->value, norm, relu), {}, {}, {}, {}, false};
  Tensor y = norm_forward(tape, x->value, norm, residual, state);
  bool needs = x->needs_gradient || trains(tape, norm) || (residual && residual->needs_gradient);
  return tape.record(y, needs, {norm.weight, norm.bias}, [&tape, x, norm, residual, state](const Tensor& dy) {
    Tensor dx = tape.empty(x->value.shape());
    norm_backward(tape, norm, state, dy, dx.data(), residual);
    tape.accumulate(x, std::move(dx));
  });
}

Var conv_batch_norm(Tape& tape, const Var& x, const Conv& conv, const BatchNorm& norm, const Var& residual,
                    bool relu) {
  ConvShape shape = conv.shape(x->value);
  bool needs = x->needs_gradient || tape.trains(*conv.filter) || trains(tape, norm) ||
               (residual && residual->needs_gradient);
  if (!tape.training && !(tape.recording() && needs)) {
    Tensor y = tape.empty(output(shape));
    Tensor w = folded(tape, *conv.filter, norm, shape);
    Tensor scale = running_scale_and_shift(tape, norm);
    ConvEpilogue epilogue{.bias = scale.slice(shape.k, shape.k).data(),
                          .add = residual ? residual->value.data() : nullptr,
                          .relu = relu};
    tape.backend.conv_forward(tape.stream, shape, tape.type, x->value.data(), w.data(), epilogue, y.data());
    return tape.constant(std::move(y));
  }
  Tensor z = forward(tape, x->value, *conv.filter, shape);
  NormState state{norm_shape(z, norm, relu), {}, {}, {}, {}, false};
  Tensor y = norm_forward(tape, z, norm, residual, state);
  return tape.record(y, needs, {conv.filter, norm.weight, norm.bias},
                     [&tape, x, filter = conv.filter, shape, norm, residual, state](const Tensor& dy) {
                       Tensor dz = tape.empty(dy.shape());
                       norm_backward(tape, norm, state, dy, dz.data(), residual);
                       backward(tape, x, *filter, shape, dz);
                     });
}

}  // namespace taper
