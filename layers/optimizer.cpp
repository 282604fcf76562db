#include "layers/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "layers/finite.h"

namespace taper {

namespace {

// Elements of one portion: enough to pay for the hand-over to a worker. And of a piece: small enough to
// divide a bucket evenly.
constexpr int64_t kPortion = int64_t{1} << 18, kPiece = int64_t{1} << 16;
// So that parts of the moments are aligned as tensors are, to cache lines.
constexpr int64_t kAlignment = 16;

bool spared(Role role) { return role == Role::norm_weight || role == Role::norm_bias || role == Role::bias; }

}  // namespace

Optimizer::Optimizer(Team& team, ParameterStore& store, const OptimizerOptions& options,
                     Communicator* divided)
    : store_(store), options_(options), type_(store.values().dtype()) {
  const bool lamb = options.rule == OptimizerOptions::Rule::lamb;
  for (Parameter& p : store.all()) {
    if (!p.trainable || p.is_statistic()) continue;
    double decay = spared(p.role) && !options.decay_norms_and_biases ? 0 : options.weight_decay;
    for (int64_t begin = 0; begin < p.size;) {
      const int64_t size = lamb ? p.size : std::min(kPiece, p.size - begin);
      pieces_.push_back({p.offset + begin, size, decay});
      owners_.push_back(trained_.size());
      begin += size;
    }
    trained_.push_back(&p);
  }
  int64_t state_size = 0;
  if (divided != nullptr && divided->ranks() > 1) {
    ranks_ = divided;
    std::vector<int64_t> borders;
    borders.reserve(pieces_.size());
    for (const Segment& piece : pieces_) borders.push_back(piece.offset);
    division_ = std::make_shared<const Division>(std::move(borders));
    buckets_ = gradient_buckets(store);
    for (const Range& bucket : buckets_)
      add_part(division_->part(bucket, ranks_->rank(), ranks_->ranks()), state_size);
  } else {
    add_part({0, store.value_size()}, state_size);
  }
  team.run_one([&](Stream& stream) {
    for (size_t i = 0; i < moment_names().size(); ++i)
      moments_.push_back(Tensor::zeros(stream, type_, {state_size}));
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

void Optimizer::add_part(const Range& range, int64_t& state_size) {
  Part part{range, state_size, {}};
  int64_t room = 0;
  auto piece = std::ranges::lower_bound(pieces_, range.begin, {}, &Segment::offset);
  for (; piece != pieces_.end() && piece->offset < range.end; ++piece) {
    const double rate = trained_[owners_[static_cast<size_t>(piece - pieces_.begin())]]->rate;
    if (room <= 0 || part.portions.back().rate != rate) {
      part.portions.push_back({rate, range.begin, state_size, {}});
      room = kPortion;
    }
    part.portions.back().segments.push_back({piece->offset - range.begin, piece->size, piece->weight_decay});
    room -= piece->size;
  }
  parts_.push_back(std::move(part));
  state_size += (range.size() + kAlignment - 1) / kAlignment * kAlignment;
}

void Optimizer::measure(Team& team, const Tensor& gradients, const Range& part,
                        std::vector<double>& squares) const {
  squares.resize(pieces_.size());
  auto begin = std::ranges::lower_bound(pieces_, part.begin, {}, &Segment::offset);
  auto end = std::ranges::lower_bound(pieces_, part.end, {}, &Segment::offset);
  std::ranges::copy(sums_of_squares(team, {begin, end}, gradients),
                    squares.begin() + (begin - pieces_.begin()));
}

// Each rank has those of its own pieces, and of the others 0.
void Optimizer::gather_squares(Team& team, std::vector<double>& squares) const {
  auto all = std::make_shared<std::vector<std::string>>();
  std::string own(reinterpret_cast<const char*>(squares.data()), squares.size() * sizeof(double));
  CommunicationThread& thread = team.communication();
  thread.wait(thread.post([all, own, &ranks = *ranks_](Stream&) { *all = ranks.all_gather(own); }));
  std::ranges::fill(squares, 0.0);
  for (const std::string& bytes : *all)
    for (size_t i = 0; i < squares.size(); ++i) {
      double square = 0;
      std::memcpy(&square, bytes.data() + i * sizeof square, sizeof square);
      squares[i] += square;
    }
}

Optimizer::Outcome Optimizer::step(Team& team, const Tensor& gradients, double count, double lr,
                                   std::vector<double> squares) {
  if (squares.empty())
    for (const Part& part : parts_) measure(team, gradients, part.range, squares);
  if (ranks_ != nullptr) gather_squares(team, squares);
  Outcome outcome;
  double sum = 0;
  for (size_t i = 0; i < squares.size(); ++i) {
    if (!std::isfinite(squares[i])) {
      outcome.gradient_norm = squares[i];
      outcome.non_finite = trained_[owners_[i]]->name;
      return outcome;
    }
    sum += squares[i];
  }
  outcome.gradient_norm = std::sqrt(sum) / count;
  double scale = 1 / count;
  if (options_.clip_norm > 0) scale *= std::min(1.0, options_.clip_norm / (outcome.gradient_norm + 1e-6));
  ++steps_;
  int64_t sent = 0;
  for (size_t i = 0; i < parts_.size(); ++i) {
    const std::vector<Portion>& portions = parts_[i].portions;
    team.run(static_cast<int64_t>(portions.size()), [&](Stream& stream, int64_t portion) {
      update(team.backend(), stream, portions[static_cast<size_t>(portion)], gradients, scale, lr);
    });
    if (ranks_ == nullptr) continue;
    // While the next part is updated.
    sent = team.communication().post([&ranks = *ranks_, division = division_, values = store_.values(),
                                      bucket = buckets_[i]](Stream& stream) mutable {
      all_gather(ranks, stream, values, bucket, *division);
    });
  }
  if (sent > 0) team.communication().wait(sent);
  for (Parameter* p : trained_) p->changed();
  return outcome;
}

void Optimizer::update(Backend& backend, Stream& stream, const Portion& portion, const Tensor& gradients,
                       double scale, double lr) const {
  const double own_lr = portion.rate * lr;
  const std::vector<Segment>& segments = portion.segments;
  const int64_t size = segments.back().offset + segments.back().size;
  Tensor g = gradients.slice(portion.base, size), values = store_.values().slice(portion.base, size),
         first = moments_.front().slice(portion.state, size),
         second = moments_.back().slice(portion.state, size);
  switch (options_.rule) {
    case OptimizerOptions::Rule::sgd:
      return backend.sgd(stream, segments, type_, {own_lr, options_.momentum, options_.nesterov}, scale,
                         g.data(), first.data(), values.data());
    case OptimizerOptions::Rule::adamw:
      return backend.adamw(stream, segments, type_,
                           {own_lr, options_.beta1, options_.beta2, options_.eps, steps_}, scale, g.data(),
                           first.data(), second.data(), values.data());
    case OptimizerOptions::Rule::lamb:
      return backend.lamb(stream, segments, type_,
                          {own_lr, options_.beta1, options_.beta2, options_.eps, steps_}, scale, g.data(),
                          first.data(), second.data(), values.data());
  }
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

std::vector<std::string> Optimizer::moment_names() const {
  if (options_.rule == OptimizerOptions::Rule::sgd) return {"momentum_buffer"};
  return {"exp_avg", "exp_avg_sq"};
}

// All ranks' moments, laid out as the store's values.
Tensor Optimizer::whole(Team& team, const Tensor& moments) const {
  if (ranks_ == nullptr) return moments;
  Tensor result;
  team.run_one([&](Stream& stream) {
    result = Tensor::zeros(stream, type_, {store_.value_size()});
    for (const Part& part : parts_) {
      Tensor own = result.slice(part.range.begin, part.range.size());
      stream.copy(own.data(), moments.slice(part.state, part.range.size()).data(), own.bytes());
    }
  });
  CommunicationThread& thread = team.communication();
  thread.wait(thread.post([&, result](Stream& stream) mutable {
    for (const Range& bucket : buckets_) all_gather(*ranks_, stream, result, bucket, *division_);
  }));
  return result;
}

void Optimizer::save(Team& team, const Save& save) const {
  const std::vector<std::string> names = moment_names();
  for (size_t i = 0; i < names.size(); ++i) save(names[i], whole(team, moments_[i]));
  if (!average_values_.defined()) return;
  save("ema.values", average_values_);
  save("ema.statistics", average_statistics_);
}

void Optimizer::restore(Team& team, int64_t steps, const Read& read) {
  steps_ = steps;
  const std::vector<std::string> names = moment_names();
  team.run_one([&](Stream& stream) {
    for (size_t i = 0; i < names.size(); ++i) {
      const std::span<const std::byte> bytes = read(names[i], store_.values());
      for (const Part& part : parts_) {
        Tensor own = moments_[i].slice(part.state, part.range.size());
        stream.upload(own.data(), bytes.data() + part.range.begin * size_of(type_), own.bytes());
      }
    }
    if (!average_values_.defined()) return;
    auto upload = [&](const char* name, Tensor& to) {
      stream.upload(to.data(), read(name, to).data(), to.bytes());
    };
    upload("ema.values", average_values_);
    upload("ema.statistics", average_statistics_);
  });
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
