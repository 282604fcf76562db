#include <cmath>

#include "autograd/ops.h"

namespace taper {

namespace {

Tensor scalar(Tape& tape) { return Tensor(tape.stream, accumulator(tape.type), {}); }

// The gradient that the loss's kernel has left, where somebody wants it.
Tensor gradient_for(Tape& tape, const Var& x) {
  return tape.recording() && x->needs_gradient ? Tensor(tape.stream, x->value.dtype(), x->value.shape())
                                               : Tensor();
}

void root(Tape& tape, const Var& x, const Tensor& gradient) {
  if (gradient.defined()) tape.record_loss([&tape, x, gradient] { tape.accumulate(x, gradient); });
}

}  // namespace

Tensor cross_entropy(Tape& tape, const Var& logits, const Tensor& labels, double smoothing) {
  const Tensor& in = logits->value;
  TAPER_CHECK(labels.size() == in.dim(0), "{} labels for logits {}", labels.size(), to_string(in.shape()));
  Tensor loss = scalar(tape), gradient = gradient_for(tape, logits);
  tape.backend.cross_entropy(tape.stream, in.dim(0), in.dim(1), in.dtype(), in.data(), labels.as<int32_t>(),
                             smoothing, loss.data(), gradient.data());
  root(tape, logits, gradient);
  return loss;
}

Tensor kl_divergence(Tape& tape, const Tensor& teacher, const Var& student, double temperature) {
  const Tensor& in = student->value;
  TAPER_CHECK(teacher.shape() == in.shape(), "the teacher's logits are {}, the student's {}",
              to_string(teacher.shape()), to_string(in.shape()));
  Tensor loss = scalar(tape), gradient = gradient_for(tape, student);
  tape.backend.kl_divergence(tape.stream, in.dim(0), in.dim(1), in.dtype(), teacher.data(), in.data(),
                             temperature, loss.data(), gradient.data());
  root(tape, student, gradient);
  return loss;
}

Tensor squared_error(Tape& tape, const Var& student, const Tensor& target) {
  const Tensor& in = student->value;
  TAPER_CHECK(target.shape() == in.shape(), "the target is {}, the student {}", to_string(target.shape()),
              to_string(in.shape()));
  Tensor loss = scalar(tape);
  Tensor gradient(tape.stream, in.dtype(), in.shape());
  double scale = static_cast<double>(in.dim(0)) / static_cast<double>(in.size());
  tape.backend.squared_error(tape.stream, in.size(), in.dtype(), in.data(), target.data(), scale, loss.data(),
                             gradient.data());
  root(tape, student, gradient);
  return loss;
}

Tensor imitation(Tape& tape, const Var& h, const Tensor& t, const Parameter& lift, bool tied) {
  const Tensor& in = h->value;
  ImitationShape shape{t.size() / lift.shape[0], lift.shape[0], lift.shape[1],
                       static_cast<double>(t.dim(0)) / static_cast<double>(t.size())};
  TAPER_CHECK(in.size() == shape.rows * shape.thin && t.shape().back() == shape.wide, "{} lifts {} to {}",
              lift.name, to_string(in.shape()), to_string(t.shape()));
  Tensor loss = scalar(tape), u = rounded(tape, lift);
  Tensor gradient(tape.stream, in.dtype(), in.shape());
  if (tied) {
    tape.backend.imitation(tape.stream, shape, tape.type, t.data(), u.data(), in.data(), loss.data(),
                           gradient.data());
  } else {
    Tensor unused =
        tape.trains(lift) ? Tensor() : Tensor::zeros(tape.stream, accumulator(tape.type), lift.shape);
    tape.backend.imitation_free(tape.stream, shape, tape.type, t.data(), u.data(), in.data(), loss.data(),
                                gradient.data(), tape.trains(lift) ? tape.gradient(lift) : unused.data());
  }
  root(tape, h, gradient);
  return loss;
}

Tensor attention_divergence(Tape& tape, const Attended& teacher, const Attended& student,
                            const Sequences& sequences, double weight) {
  auto heads = [&](const Attended& side) {
    const Tensor& qkv = side.qkv->value;
    int64_t size = qkv.dim(1) / (3 * side.heads);
    TAPER_CHECK(qkv.dim(0) == sequences.tokens() && qkv.dim(1) == 3 * side.heads * size,
                "{} heads over {} tokens read {}", side.heads, sequences.tokens(), to_string(qkv.shape()));
    return AttentionHeads{side.heads, size, 1 / std::sqrt(static_cast<double>(size))};
  };
  const Tensor& in = student.qkv->value;
  Tensor loss = scalar(tape), gradient = tape.empty(in.shape());
  tape.backend.attention_divergence(tape.stream,
                                    {.sequences = sequences.count(),
                                     .tokens = sequences.tokens(),
                                     .offsets = sequences.offsets.as<int32_t>(),
                                     .teacher = heads(teacher),
                                     .student = heads(student),
                                     .weight = weight},
                                    tape.type, teacher.qkv->value.data(), in.data(), loss.data(),
                                    gradient.data());
  root(tape, student.qkv, gradient);
  return loss;
}

}  // namespace taper
