#pragma once
// Reverse-mode differentiation: nodes in the order of their creation, walked once in reverse.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "autograd/parameter.h"
#include "kernels/backend.h"
#include "runtime/tensor.h"

namespace taper {

struct Sequences;
struct Attended;

/// A value in a computation, with the gradient of the sum of all losses once the tape has walked past its
/// users.
struct Variable {
  Tensor value;
  Tensor gradient;
  bool needs_gradient = false;
};
using Var = std::shared_ptr<Variable>;

/// What one shard of a batch adds up; shards are summed in a fixed tree (autograd/shards.h). Nothing in it is
/// a mean.
struct ShardSums {
  Tensor gradients;  ///< of ParameterStore::values(), accumulator type; undefined: nothing is trained
  Tensor
      statistics;  ///< each batch norm's mean and unbiased variance, laid out as ParameterStore::statistics()
  /// By its offset in `statistics`: how many shards have reported it. What none has is not among them.
  std::map<int64_t, int64_t> reports = {};
};

/// One shard's computation on one worker's stream. Not thread-safe and never global: each worker has its own.
///
///   Tape tape(backend, stream, DType::f32, &sums);
///   tape.training = true;
///   Var logits = network.head(tape, ...);
///   Tensor loss = cross_entropy(tape, logits, labels, 0.1);   // every loss is a root
///   tape.backward();                                          // one sweep for all of them
class Tape {
 public:
  /// `sums` null: nothing is recorded and batch norm is folded into convolutions (inference).
  Tape(Backend& backend, Stream& stream, DType type, ShardSums* sums = nullptr)
      : backend(backend), stream(stream), type(type), sums_(sums) {}

  Backend& backend;
  Stream& stream;
  const DType type;       ///< of activations
  bool training = false;  ///< batch norm: the batch's statistics, or the running ones; dropout or none
  const Sequences* sequences = nullptr;       ///< how a language model's rows form sequences
  std::vector<Attended>* attended = nullptr;  ///< where attention() adds what it read, if somebody asks

  bool recording() const { return sums_ != nullptr; }
  /// Whether this pass wants the gradient of `p`.
  bool trains(const Parameter& p) const { return recording() && sums_->gradients.defined() && p.trainable; }
  /// Where `p`'s gradient is added up.
  void* gradient(const Parameter& p) const { return sums_->gradients.slice(p.offset, p.size).data(); }
  /// Where a batch norm has to put the statistic that it reports; null where nobody collects them.
  void* report(const Parameter& p) const {
    if (sums_ == nullptr || !sums_->statistics.defined()) return nullptr;
    sums_->reports[p.offset] = 1;
    return sums_->statistics.slice(p.offset, p.size).data();
  }

  Tensor empty(Shape shape) const { return Tensor(stream, type, std::move(shape)); }
  Tensor empty(DType other, Shape shape) const { return Tensor(stream, other, std::move(shape)); }
  /// A value that no gradient flows into: an input, or another variable's value (stop-gradient).
  Var constant(Tensor value) const {
    return std::make_shared<Variable>(Variable{std::move(value), {}, false});
  }

  /// The result of an op. `backward` gets the result's gradient and adds to those of the inputs, and of the
  /// `parameters` that are trained, to no others; it is kept only if `needs_gradient`, and destroyed, with
  /// all it captured, as soon as it has run.
  Var record(Tensor value, bool needs_gradient, std::vector<const Parameter*> parameters,
             std::function<void(const Tensor& dy)> backward);
  Var record(Tensor value, bool needs_gradient, std::function<void(const Tensor& dy)> backward) {
    return record(std::move(value), needs_gradient, {}, std::move(backward));
  }
  /// A root: `backward` starts a gradient.
  void record_loss(std::function<void()> backward);
  /// variable.gradient += dy (shared, not copied, when it is the first).
  void accumulate(const Var& variable, Tensor dy);
  /// Walks all nodes once in reverse. The tape is empty afterwards.
  void backward();

  /// The trained parameters that nodes still to be walked will add to, by offset, and how many nodes.
  using Pending = std::map<int64_t, int64_t>;
  /// Called by backward() at its start and whenever a parameter has left `pending`: its gradient is final, as
  /// are those that never were in it, once the stream's work so far is done. Empty: nobody wants to know.
  std::function<void(const Pending& pending)> on_progress;

 private:
  struct Node {
    Var output;                                ///< null for a root
    std::vector<const Parameter*> parameters;  ///< that `backward` may add to
    std::function<void(const Tensor&)> backward;
  };
  ShardSums* sums_;
  std::vector<Node> nodes_;
};

}  // namespace taper
