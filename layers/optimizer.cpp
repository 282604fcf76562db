#include "layers/optimizer.h"

#include <algorithm>
#include <cmath>

#include "layers/finite.h"

namespace taper {

namespace {

// Elements of one portion: enough to pay for the hand-over to a worker.
constexpr int64_t kPortion = int64_t{1} << 18;

bool spared(Role role) { return role == Role::norm_weight || role == Role::norm_bias || role == Role::bias; }

}  // namespace

Optimizer::Optimizer(Team& team, ParameterStore& store, const OptimizerOptions& options)
    : store_(store), options_(options), type_(store.values().dtype()) {
  int64_t room = 0;
  for (Parameter& p : store.all()) {
    if (!p.trainable || p.is_statistic()) continue;
    double decay = spared(p.role) && !options.decay_norms_and_biases ? 0 : options.weight_decay;
    trained_.push_back(&p);
    segments_.push_back({p.offset, p.size, decay});
    for (int64_t begin = 0; begin < p.size;) {
      if (room <= 0 || portions_.back().rate != p.rate) {
        portions_.push_back({p.rate, {}});
        room = kPortion;
      }
      int64_t size = p.size - begin;
      if (options.rule != OptimizerOptions::Rule::lamb) size = std::min(room, size);
      portions_.back().segments.push_back({p.offset + begin, size, decay});
      begin += size;
      room -= size;
    }
  }
  team.run_one([&](Stream& stream) {
    for (int i = 0; i < (options.rule == OptimizerOptions::Rule::sgd ? 1 : 2); ++i)
      moments_.push_back(Tensor::zeros(stream, type_, {store.value_size()}));
    if (options.ema_decay == 0) return;
    auto copy = [&](const Tensor& from) {
      Tensor to(stream, from.dtype(), from.shape());
      stream.copy(to.data(), from.data(), from.bytes());
      return to;
    };
    average_values_ = copy(store.values());
    average_statistics_ = copy(store.statistics());
  });
}

void Optimizer::measure(Team& team, const Tensor& gradients, const Range& part,
                        std::vector<double>& squares) const {
  squares.resize(segments_.size());
  auto begin = std::ranges::lower_bound(segments_, part.begin, {}, &Segment::offset);
  auto end = std::ranges::lower_bound(segments_, part.end, {}, &Segment::offset);
  std::ranges::copy(sums_of_squares(team, {begin, end}, gradients),
                    squares.begin() + (begin - segments_.begin()));
}

Optimizer::Outcome Optimizer::step(Team& team, const Tensor& gradients, double count, double lr,
                                   std::vector<double> squares) {
  if (squares.empty()) measure(team, gradients, {0, gradients.size()}, squares);
  Outcome outcome;
  double sum = 0;
  for (size_t i = 0; i < squares.size(); ++i) {
    if (!std::isfinite(squares[i])) {
      outcome.gradient_norm = squares[i];
      outcome.non_finite = trained_[i]->name;
      return outcome;
    }
    sum += squares[i];
  }
  outcome.gradient_norm = std::sqrt(sum) / count;
  double scale = 1 / count;
  if (options_.clip_norm > 0) scale *= std::min(1.0, options_.clip_norm / (outcome.gradient_norm + 1e-6));
  ++steps_;
  Tensor values = store_.values();
  team.run(static_cast<int64_t>(portions_.size()), [&](Stream& stream, int64_t i) {
    const auto& [rate, portion] = portions_[static_cast<size_t>(i)];
    const double own_lr = rate * lr;
    Backend& backend = team.backend();
    switch (options_.rule) {
      case OptimizerOptions::Rule::sgd:
        return backend.sgd(stream, portion, type_, {own_lr, options_.momentum, options_.nesterov}, scale,
                           gradients.data(), moments_[0].data(), values.data());
      case OptimizerOptions::Rule::adamw:
        return backend.adamw(stream, portion, type_,
                             {own_lr, options_.beta1, options_.beta2, options_.eps, steps_}, scale,
                             gradients.data(), moments_[0].data(), moments_[1].data(), values.data());
      case OptimizerOptions::Rule::lamb:
        return backend.lamb(stream, portion, type_,
                            {own_lr, options_.beta1, options_.beta2, options_.eps, steps_}, scale,
                            gradients.data(), moments_[0].data(), moments_[1].data(), values.data());
    }
  });
  for (Parameter* p : trained_) p->changed();
  return outcome;
}

void Optimizer::average(Team& team) {
  if (!average_values_.defined()) return;
  double decay = options_.ema_decay;
  team.run_one([&](Stream& stream) {
    auto blend = [&](const Tensor& from, Tensor& to) {
      team.backend().axpby(stream, from.size(), type_, 1 - decay, from.data(), decay, to.data());
    };
    blend(store_.values(), average_values_);
    blend(store_.statistics(), average_statistics_);
  });
}

std::vector<NamedTensor> Optimizer::state() const {
  std::vector<NamedTensor> result;
  if (options_.rule == OptimizerOptions::Rule::sgd)
    result = {{"momentum_buffer", moments_[0]}};
  else
    result = {{"exp_avg", moments_[0]}, {"exp_avg_sq", moments_[1]}};
  if (average_values_.defined()) {
    result.push_back({"ema.values", average_values_});
    result.push_back({"ema.statistics", average_statistics_});
  }
  return result;
}

void Optimizer::swap_average(Team& team) {
  if (!average_values_.defined()) return;
  team.run_one([&](Stream& stream) {
    auto exchange = [&](Tensor a, Tensor& b) {
      Tensor temporary(stream, a.dtype(), a.shape());
      stream.copy(temporary.data(), a.data(), a.bytes());
      stream.copy(a.data(), b.data(), a.bytes());
      stream.copy(b.data(), temporary.data(), a.bytes());
    };
    exchange(store_.values(), average_values_);
    exchange(store_.statistics(), average_statistics_);
  });
  for (Parameter& p : store_.all()) p.changed();
}

void update_statistics(Team& team, Network& network, const ShardSums& sums, double momentum) {
  team.run_one([&](Stream& stream) {
    for (const BatchNorm& norm : network.norms()) {
      if (!norm.weight->trainable) continue;
      double move = momentum < 0 ? norm.momentum : momentum;
      for (Parameter* statistic : {norm.running_mean, norm.running_variance}) {
        auto reports = sums.reports.find(statistic->offset);
        if (reports == sums.reports.end()) continue;
        Tensor running = statistic->value();
        Tensor sum = sums.statistics.slice(statistic->offset, statistic->size);
        team.backend().axpby(stream, running.size(), running.dtype(),
                             move / static_cast<double>(reports->second), sum.data(), 1 - move,
                             running.data());
        statistic->changed();
      }
    }
  });
}

}  // namespace taper
