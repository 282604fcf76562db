#include <cmath>

#include "autograd/ops.h"

namespace taper {

Var layer_norm(Tape& tape, const Var& x, const Var& residual, const LayerNorm& norm) {
  const Tensor& in = x->value;
  int64_t features = norm.weight->size, rows = in.size() / features;
  TAPER_CHECK(in.shape().back() == features, "{} normalises {} features, its input is {}", norm.weight->name,
              features, to_string(in.shape()));
  TAPER_CHECK(!residual || residual->value.shape() == in.shape(), "{}: a residual of {} for {}",
              norm.weight->name, residual ? to_string(residual->value.shape()) : "", to_string(in.shape()));
  DType sums = accumulator(tape.type);
  Tensor y = tape.empty(in.shape()), sum = residual ? tape.empty(in.shape()) : in;
  Tensor mean(tape.stream, sums, {rows}), rstd(tape.stream, sums, {rows});
  tape.backend.layer_norm_forward(tape.stream, rows, features, tape.type, in.data(),
                                  residual ? residual->value.data() : nullptr, norm.weight->value().data(),
                                  norm.bias->value().data(), norm.eps, residual ? sum.data() : nullptr,
                                  y.data(), mean.data(), rstd.data());
  bool needs = x->needs_gradient || (residual && residual->needs_gradient) || tape.trains(*norm.weight) ||
               tape.trains(*norm.bias);
  return tape.record(y, needs, {norm.weight, norm.bias},
                     [&tape, x, residual, norm, sum, mean, rstd, rows, features, sums](const Tensor& dy) {
                       // The kernel computes both; the gradient of what is frozen goes nowhere.
                       bool frozen = !tape.trains(*norm.weight) || !tape.trains(*norm.bias);
                       Tensor unused = frozen ? Tensor::zeros(tape.stream, sums, {2 * features}) : Tensor();
                       void* dgamma = tape.trains(*norm.weight) ? tape.gradient(*norm.weight) : unused.data();
                       void* dbeta = tape.trains(*norm.bias) ? tape.gradient(*norm.bias)
                                                             : unused.slice(features, features).data();
                       Tensor dx = tape.empty(dy.shape());
                       tape.backend.layer_norm_backward(tape.stream, rows, features, tape.type, dy.data(),
                                                        sum.data(), norm.weight->value().data(), mean.data(),
                                                        rstd.data(), dx.data(), dgamma, dbeta);
                       tape.accumulate(x, dx);
                       if (residual) tape.accumulate(residual, dx);
                     });
}

Var embedding(Tape& tape, const Tensor& ids, const Parameter& table) {
  int64_t rows = ids.size(), entries = table.shape[0], features = table.shape[1];
  Tensor y = tape.empty({rows, features}), values = rounded(tape, table);
  tape.backend.embedding_forward(tape.stream, rows, features, tape.type, ids.as<int32_t>(), values.data(),
                                 y.data());
  return tape.record(y, tape.trains(table), {&table},
                     [&tape, ids, &table, rows, entries, features](const Tensor& dy) {
                       tape.backend.embedding_backward(tape.stream, rows, features, entries, tape.type,
                                                       ids.as<int32_t>(), dy.data(), tape.gradient(table));
                     });
}

Var gather(Tape& tape, const Var& x, const Tensor& rows) {
  int64_t count = rows.size(), entries = x->value.dim(0), features = x->value.dim(1);
  Tensor y = tape.empty({count, features});
  tape.backend.embedding_forward(tape.stream, count, features, tape.type, rows.as<int32_t>(), x->value.data(),
                                 y.data());
  return tape.record(y, x->needs_gradient, [&tape, x, rows, count, entries, features](const Tensor& dy) {
    DType sums = accumulator(tape.type);
    Tensor dx = Tensor::zeros(tape.stream, sums, {entries, features});
    tape.backend.embedding_backward(tape.stream, count, features, entries, tape.type, rows.as<int32_t>(),
                                    dy.data(), dx.data());
    if (tape.type != sums) {
      Tensor exact = std::move(dx);
      dx = tape.empty({entries, features});
      tape.backend.cast(tape.stream, dx.size(), sums, exact.data(), tape.type, dx.data());
    }
    tape.accumulate(x, std::move(dx));
  });
}

Var attention(Tape& tape, const Var& qkv, const Sequences& sequences, int64_t heads, double p, uint64_t key) {
  const Tensor& in = qkv->value;
  int64_t width = in.dim(1) / 3, head_size = width / heads;
  TAPER_CHECK(in.dim(0) == sequences.tokens() && in.dim(1) == 3 * heads * head_size,
              "{} heads over {} tokens read {}", heads, sequences.tokens(), to_string(in.shape()));
  AttentionShape shape{.sequences = sequences.count(),
                       .tokens = sequences.tokens(),
                       .heads = heads,
                       .head_size = head_size,
                       .offsets = sequences.offsets.as<int32_t>(),
                       .sample_ids = sequences.sample_ids.as<int64_t>(),
                       .scale = 1 / std::sqrt(static_cast<double>(head_size)),
                       .dropout = tape.training ? p : 0,
                       .key = key};
  if (tape.attended != nullptr) tape.attended->push_back({qkv, heads});
  Tensor o = tape.empty({shape.tokens, width});
  Tensor logsumexp(tape.stream, accumulator(tape.type), {heads, shape.tokens});
  tape.backend.attention_forward(tape.stream, shape, tape.type, in.data(), o.data(), logsumexp.data());
  // The shape points into these two.
  Tensor offsets = sequences.offsets, ids = sequences.sample_ids;
  return tape.record(
      o, qkv->needs_gradient, [&tape, qkv, shape, o, logsumexp, offsets, ids](const Tensor& dy) {
        Tensor dqkv = tape.empty(qkv->value.shape());
        tape.backend.attention_backward(tape.stream, shape, tape.type, dy.data(), qkv->value.data(), o.data(),
                                        logsumexp.data(), dqkv.data());
        tape.accumulate(qkv, std::move(dqkv));
      });
}

Var dropout(Tape& tape, const Var& x, double p, uint64_t key, const Tensor& ids) {
  if (!tape.training || p == 0) return x;
  int64_t rows = x->value.dim(0), features = x->value.dim(1);
  TAPER_CHECK(ids.size() == rows, "{} names for the rows of {}", ids.size(), to_string(x->value.shape()));
  auto drop = [&tape, p, key, ids, rows, features](const Tensor& in) {
    Tensor out = tape.empty(in.shape());
    tape.backend.dropout(tape.stream, rows, features, tape.type, p, key, ids.as<int64_t>(), in.data(),
                         out.data());
    return out;
  };
  return tape.record(drop(x->value), x->needs_gradient,
                     [&tape, x, drop](const Tensor& dy) { tape.accumulate(x, drop(dy)); });
}

Tensor span_cross_entropy(Tape& tape, const Var& logits, const Sequences& sequences, const Tensor& spans) {
  const Tensor& in = logits->value;
  TAPER_CHECK(in.shape() == Shape({sequences.tokens(), 2}) && spans.size() == 2 * sequences.count(),
              "{} spans for logits {} of {} sequences", spans.size() / 2, to_string(in.shape()),
              sequences.count());
  bool wanted = tape.recording() && logits->needs_gradient;
  Tensor sum = Tensor::zeros(tape.stream, in.dtype(), {}), loss(tape.stream, in.dtype(), {});
  Tensor gradient = wanted ? Tensor::zeros(tape.stream, in.dtype(), in.shape()) : Tensor();
  std::vector<int32_t> offsets = sequences.offsets.host<int32_t>(tape.stream);
  for (int64_t i = 0; i < sequences.count(); ++i) {
    int64_t first = offsets[static_cast<size_t>(i)], length = offsets[static_cast<size_t>(i) + 1] - first;
    std::vector<int32_t> order;  // the tokens' first logits, then their second ones
    for (int32_t part : {0, 1})
      for (int64_t t = 0; t < length; ++t) order.push_back(static_cast<int32_t>(2 * t + part));
    Tensor places = Tensor::from<int32_t>(tape.stream, {2 * length}, order);
    Tensor own = in.slice(2 * first, 2 * length), rows(tape.stream, in.dtype(), {2, length});
    tape.backend.embedding_forward(tape.stream, 2 * length, 1, in.dtype(), places.as<int32_t>(), own.data(),
                                   rows.data());
    tape.backend.cross_entropy(tape.stream, 2, length, in.dtype(), rows.data(),
                               spans.slice(2 * i, 2).as<int32_t>(), 0, loss.data(),
                               wanted ? rows.data() : nullptr);
    tape.backend.add(tape.stream, 1, in.dtype(), sum.data(), loss.data(), sum.data());
    if (wanted)
      tape.backend.embedding_backward(tape.stream, 2 * length, 1, 2 * length, in.dtype(),
                                      places.as<int32_t>(), rows.data(),
                                      gradient.slice(2 * first, 2 * length).data());
  }
  if (wanted) tape.record_loss([&tape, logits, gradient] { tape.accumulate(logits, gradient); });
  return sum;
}

}  // namespace taper
