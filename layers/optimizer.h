#pragma once
// A step of SGD, AdamW or LAMB over all trained tensors of a network at once, with clipping and an average of
// the weights.

#include <string>
#include <vector>

#include "autograd/shards.h"
#include "layers/network.h"

namespace taper {

struct OptimizerOptions {
  enum class Rule { sgd, adamw, lamb };
  Rule rule = Rule::sgd;
  double momentum = 0.9;
  bool nesterov = false;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double weight_decay = 0;
  bool decay_norms_and_biases = true;  ///< as torch.optim does; false spares them, as timm does
  double clip_norm = 0;  ///< of the whole gradient's L2 norm, as torch.nn.utils.clip_grad_norm_; 0: off
  double ema_decay = 0;  ///< average = decay average + (1 - decay) weights after each step; 0: off
};

/// One tensor of an optimizer's state, by name, for checkpoints.
struct NamedTensor {
  std::string name;
  Tensor tensor;
};

class Optimizer {
 public:
  /// Trains the parameters of `store` that are trainable now, at their rates as they are now; fresh state.
  Optimizer(Team& team, ParameterStore& store, const OptimizerOptions& options);

  /// What a step did, or why it did nothing.
  struct Outcome {
    double gradient_norm = 0;  ///< of the mean gradient, before clipping
    std::string non_finite;  ///< the first tensor whose gradient holds a NaN or infinity: nothing was changed
  };
  /// `gradients`: the sum over `count` samples, laid out as the store's values. Any number of workers gives
  /// the same bits. It reads the gradients twice: measured first, for the norm and to find what is not
  /// finite, and only then, since nothing may have changed where something is not, do they move the weights.
  /// `squares`: what measure() made of all of them; empty: nothing was measured yet.
  Outcome step(Team& team, const Tensor& gradients, double count, double lr,
               std::vector<double> squares = {});
  /// The first of the two passes over a part of the gradients, which holds whole tensors: while others are
  /// still awaited.
  void measure(Team& team, const Tensor& gradients, const Range& part, std::vector<double>& squares) const;
  /// Moves the averages towards the weights and statistics as they are now; does nothing without ema_decay.
  void average(Team& team);

  /// Steps taken, and the tensors to save and to restore in place.
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }
  std::vector<NamedTensor> state() const;
  /// Exchanges weights and statistics with their averages; does nothing without ema_decay. For evaluation,
  /// and once at the end.
  void swap_average(Team& team);

 private:
  ParameterStore& store_;
  OptimizerOptions options_;
  DType type_;
  std::vector<Parameter*> trained_;
  std::vector<Segment> segments_;  // one for each trained tensor
  // The same elements in pieces for the workers, each of one rate; lamb's segments are whole tensors.
  struct Portion {
    double rate;
    std::vector<Segment> segments;
  };
  std::vector<Portion> portions_;
  std::vector<Tensor> moments_;  // momentum, or first and second moment
  Tensor average_values_, average_statistics_;
  int64_t steps_ = 0;
};

/// Moves the running statistics of the batch norms whose weights are trainable: running = (1 - momentum)
/// running + momentum (sum / shards that reported it). What no shard reported, because the norm did not run
/// or ran in evaluation mode, stays as it is. `momentum` < 0: each norm's own.
void update_statistics(Team& team, Network& network, const ShardSums& sums, double momentum = -1);

}  // namespace taper
