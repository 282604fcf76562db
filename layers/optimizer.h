#pragma once
// A step of SGD, AdamW or LAMB over all trained tensors of a network at once, with clipping and an average of
// the weights. Its state may be divided among ranks (Rajbhandari et al., ZeRO, arXiv 1910.02054, stage 1).

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "autograd/collectives.h"
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

class Optimizer {
 public:
  /// Trains the parameters of `store` that are trainable now, at their rates as they are now; fresh state.
  /// `divided`, if there are several: each of these ranks keeps the state of its own part of what is trained,
  /// updates it, and gets the others' values from them. All ranks then make the same calls. Not divided is
  /// the average of the weights. No bit depends on it.
  Optimizer(Team& team, ParameterStore& store, const OptimizerOptions& options,
            Communicator* divided = nullptr);
  /// How gradients are to be divided for step(), in the store's gradient_buckets(); null: each rank needs
  /// all.
  const std::shared_ptr<const Division>& division() const { return division_; }

  /// What a step did, or why it did nothing.
  struct Outcome {
    double gradient_norm = 0;  ///< of the mean gradient, before clipping
    std::string non_finite;  ///< the first tensor whose gradient holds a NaN or infinity: nothing was changed
  };
  /// `gradients`: the sum over `count` samples, laid out as the store's values. Any number of workers gives
  /// the same bits. It reads the gradients twice: measured first, for the norm and to find what is not
  /// finite, and only then, since nothing may have changed where something is not, do they move the weights.
  /// `squares`: what measure() made of all that this rank has; empty: nothing was measured yet.
  Outcome step(Team& team, const Tensor& gradients, double count, double lr,
               std::vector<double> squares = {});
  /// The first of the two passes over a part of the gradients, a bucket or this rank's part of it: while
  /// others are still awaited.
  void measure(Team& team, const Tensor& gradients, const Range& part, std::vector<double>& squares) const;
  /// Moves the averages towards the weights and statistics as they are now; does nothing without ema_decay.
  void average(Team& team);

  /// Steps taken.
  int64_t steps() const { return steps_; }
  /// Gives every tensor of the state to `save`, by name and whole, one after the other.
  using Save = std::function<void(const std::string& name, const Tensor& tensor)>;
  void save(Team& team, const Save& save) const;
  /// Takes what save() gave, of an optimizer of the same options: `read` returns the bytes of a tensor of
  /// this name, which has the dtype and shape of `like`.
  using Read = std::function<std::span<const std::byte>(const std::string& name, const Tensor& like)>;
  void restore(Team& team, int64_t steps, const Read& read);
  /// Exchanges weights and statistics with their averages; does nothing without ema_decay. For evaluation,
  /// and once at the end.
  void swap_average(Team& team);

 private:
  ParameterStore& store_;
  OptimizerOptions options_;
  DType type_;
  std::vector<Parameter*> trained_;
  // What is trained, in pieces that no division cuts and whose squares are summed by themselves: chunks of
  // tensors, or of lamb whole tensors. And whose they are, of trained_.
  std::vector<Segment> pieces_;
  std::vector<size_t> owners_;
  // The pieces that this rank updates, for a worker: of one rate, their offsets counted from `base` in the
  // flat buffers and from `state` in the moments.
  struct Portion {
    double rate;
    int64_t base, state;
    std::vector<Segment> segments;
  };
  // What this rank updates of each bucket; without division, all at once.
  struct Part {
    Range range;
    int64_t state;  // where its moments begin
    std::vector<Portion> portions;
  };
  void add_part(const Range& range, int64_t& state_size);
  void gather_squares(Team& team, std::vector<double>& squares) const;
  void update(Backend& backend, Stream& stream, const Portion& portion, const Tensor& gradients, double scale,
              double lr) const;
  Tensor whole(Team& team, const Tensor& moments) const;
  std::vector<std::string> moment_names() const;

  Communicator* ranks_ = nullptr;  // where divided
  std::shared_ptr<const Division> division_;
  std::vector<Range> buckets_;  // where divided
  std::vector<Part> parts_;
  std::vector<Tensor> moments_;  // momentum, or first and second moment, of this rank's parts
  Tensor average_values_, average_statistics_;
  int64_t steps_ = 0;
};

/// Moves the running statistics of the batch norms whose weights are trainable: running = (1 - momentum)
/// running + momentum (sum / shards that reported it). What no shard reported, because the norm did not run
/// or ran in evaluation mode, stays as it is. `momentum` < 0: each norm's own.
void update_statistics(Team& team, Network& network, const ShardSums& sums, double momentum = -1);

}  // namespace taper
