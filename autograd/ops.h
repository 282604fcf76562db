#pragma once
// The differentiable ops. Each runs its kernels at once and records what its backward needs.

#include <string>
#include <vector>

#include "autograd/sequences.h"
#include "autograd/tape.h"

namespace taper {

/// A convolution's parameter and geometry; groups divide input and output channels.
struct Conv {
  Parameter* filter = nullptr;  ///< [k, r, s, c / groups]
  int64_t stride = 1, padding = 0, dilation = 1, groups = 1;
  ConvShape shape(const Tensor& x) const;
};

/// torch.nn.BatchNorm2d's four tensors. Statistics move by `momentum` in PyTorch's convention (0.1 keeps nine
/// tenths).
struct BatchNorm {
  Parameter *weight = nullptr, *bias = nullptr, *running_mean = nullptr, *running_variance = nullptr;
  double eps = 1e-5, momentum = 0.1;
};

/// Linear layers that read the same input, run as one product: their weights [out, in] and biases [out],
/// stacked in this order.
struct Dense {
  std::vector<Parameter*> weights, biases;
};

/// torch.nn.LayerNorm over the last axis.
struct LayerNorm {
  Parameter *weight = nullptr, *bias = nullptr;
  double eps = 1e-12;
};

/// What an attention() read: qkv [tokens, 3 heads head_size].
struct Attended {
  Var qkv;
  int64_t heads;
};

/// y = conv(x, filter), NHWC.
Var conv2d(Tape&, const Var& x, const Conv&);
/// y = relu(batch_norm(x) + residual) over the last axis; residual may be null. Uses the batch's statistics,
/// and reports them, if tape.training; otherwise the running ones, with gradients all the same.
Var batch_norm(Tape&, const Var& x, const BatchNorm&, const Var& residual, bool relu);
/// batch_norm(conv2d(x), residual, relu) as one op. When the tape does not record and is not training, the
/// norm is folded into the filter and one kernel does it all: equal up to rounding.
Var conv_batch_norm(Tape&, const Var& x, const Conv&, const BatchNorm&, const Var& residual, bool relu);
/// y = x weight^T + bias for x [rows, in], weight [out, in]; bias may be null. y has the accumulator type:
/// logits are not rounded.
Var linear(Tape&, const Var& x, const Parameter& weight, const Parameter* bias);
/// y = f(x weight^T + bias) with f none, gelu or gelu_tanh, for x [rows, in]: y [rows, sum of out] has the
/// activations' type.
Var dense(Tape&, const Var& x, const Dense&, Activation f);
/// y = layer_norm(x + residual) over the last axis; residual may be null.
Var layer_norm(Tape&, const Var& x, const Var& residual, const LayerNorm&);
/// y[r] = table[ids[r]]: ids [rows] of i32, each a row of the table [entries, features] (not checked here).
Var embedding(Tape&, const Tensor& ids, const Parameter& table);
/// y[r] = x[rows[r]] for x [n, features] and rows [count] of i32, each below n (not checked here).
Var gather(Tape&, const Var& x, const Tensor& rows);
/// Self-attention within each of the sequences, scaled by 1 / sqrt(head_size): qkv [tokens, 3 heads
/// head_size] -> [tokens, heads head_size]. Probabilities are dropped with probability `p` under `key`
/// (kernels/attention.h) if tape.training.
Var attention(Tape&, const Var& qkv, const Sequences&, int64_t heads, double p, uint64_t key);
/// Elements of x [rows, features] dropped with probability `p` under `key` and the rows' names `ids` [rows]
/// of i64 (kernels/activation.h) if tape.training; else x.
Var dropout(Tape&, const Var& x, double p, uint64_t key, const Tensor& ids);
/// y = x P^T over the last axis with P = lower lift: a free bridge, lower [thin, wide] and lift [wide, thin],
/// run as one thin x thin product. Gradients: dlower += dP lift^T, dlift += lower^T dP, with dP = dy^T x.
Var bridge(Tape&, const Var& x, const Parameter& lower, const Parameter& lift);
Var activate(Tape&, Activation, const Var& x);
Var add(Tape&, const Var& a, const Var& b);
Var max_pool(Tape&, const Var& x, int64_t size, int64_t stride, int64_t padding);
/// [n, h, w, c] -> [n, c].
Var global_average_pool(Tape&, const Var& x);

// Losses: each is a root of tape.backward() and returns the loss, summed over rows: a scalar of accumulator
// type.

/// kernels/loss.h's cross_entropy; labels [rows] of i32.
Tensor cross_entropy(Tape&, const Var& logits, const Tensor& labels, double smoothing);
/// KL(teacher || student) at a temperature.
Tensor kl_divergence(Tape&, const Tensor& teacher, const Var& student, double temperature);
/// Cross-entropy of each sequence's first and last token of a span, over its own tokens: logits [tokens, 2];
/// spans [2 sequences] of i32, first and last counted in the sequence (not checked here). Two terms each.
Tensor span_cross_entropy(Tape&, const Var& logits, const Sequences&, const Tensor& spans);
/// sum over samples of the mean over a sample's elements of (student - target)^2.
Tensor squared_error(Tape&, const Var& student, const Tensor& target);
/// The same between h lifted by the bridge `lift` [wide, thin] and the target t at the wide width. Columns of
/// a tied bridge are orthonormal and fixed; a free one is trained with it.
Tensor imitation(Tape&, const Var& h, const Tensor& t, const Parameter& lift, bool tied);

/// weight x sum over tokens of KL(the teacher's attention || the student's), each the mean over its heads
/// (kernels/attention.h): both attended to these sequences. No gradient reaches the teacher.
Tensor attention_divergence(Tape&, const Attended& teacher, const Attended& student, const Sequences&,
                            double weight);

/// The value rounded to the activations' type, shared by all workers: f32 parameters are returned as they
/// are.
Tensor rounded(Tape&, const Parameter&);

}  // namespace taper
