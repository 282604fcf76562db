#pragma once
// Stage 2, narrow learning: the thin network learns the wide one's intermediate outputs, unit by unit from
// the bottom (Zhou et al., ICML 2020; docs/method.md).

#include <string>
#include <vector>

#include "recipes/data.h"
#include "recipes/imitation_plan.h"
#include "recipes/models.h"
#include "recipes/step.h"

namespace taper {

class Imitation {
 public:
  /// `thin` is bridged.
  Imitation(const Configuration& configuration, Engine& engine, const Data& data, Model& thin, Model& wide);

  /// In the order of training: bottom to top.
  const std::vector<ImitationTarget>& targets() const { return targets_; }
  /// Before the first target: bridges from the wide network's principal directions, the stem and head from
  /// its weights.
  void initialize();
  /// After the last target: the head from the wide network's through the lift as it was trained, where it
  /// was.
  void finish();
  /// What is trained at a time, in the order of training.
  std::vector<Targets> rounds() const { return imitation_rounds(configuration_, targets_); }
  /// Makes trainable what these targets train, and nothing else.
  void select(Targets targets);
  /// What a unit reads: the thin network's own output below it, or the wide network's, brought to the thin
  /// width.
  enum class Input : uint8_t { sequential, teacher };
  /// As configured.
  Input input() const {
    return configuration_.imitate.input == "teacher" ? Input::teacher : Input::sequential;
  }
  /// loss = sum over targets and samples (of text: tokens) of the mean squared difference at the wide width,
  /// plus imitate.attention times the divergence of each attention in the target. No target's loss reaches
  /// another target's parameters, but for a free lift, which the reader of its boundary runs too.
  Objective objective(Targets targets, Input input) const;
  /// Mean squared difference over mean squared target, for each target, behind the thin network's own prefix,
  /// both in evaluation mode, over the first images of the test split.
  std::vector<double> errors(Targets targets) const;
  ImitationCost cost(Targets targets) const {
    return imitation_cost(configuration_, *thin_.bridged, *wide_.network, targets, data_.facts().extent);
  }

 private:
  bool free() const { return thin_.bridged->kind() == BridgeKind::free; }
  Var teach(Tape& tape, const Var& input, int64_t boundary) const;
  Var activated(Tape& tape, const Network& network, const Var& x, int64_t boundary) const;
  struct Compared {
    Tensor loss, goal;
  };
  std::vector<Compared> compare(Tape& tape, const ShardInput& shard, Targets targets, Input input,
                                bool attention) const;
  void measure_bridges();
  bool in_head(const std::string& parameter) const;
  bool in_stem(const std::string& parameter) const;
  void copy_stem();
  void copy_head();

  const Configuration& configuration_;
  Engine& engine_;
  const Data& data_;
  Model &thin_, &wide_;
  BridgedNetwork wide_units_;  // the wide network cut as the thin one is
  std::vector<ImitationTarget> targets_;
};

}  // namespace taper
