// Units of imitation side by side (imitate.parallel = "units"). A round trains as many units as there are
// groups of ranks, each from the untrained network. Then all ranks have all of them, and measure and log them
// one after the other as if they had been trained so: what a round leaves is what the sequential schedule
// leaves, to the bit.

#include <algorithm>
#include <bit>
#include <cstring>

#include "recipes/run.h"
#include "runtime/error.h"
#include "runtime/file.h"

namespace taper {

namespace {

// Of a step that is to be logged: its number, the files that were left out, loss, lr, items a second,
// GFLOP/s, norm of the gradient, seconds of communication and of waiting for it.
constexpr int64_t kStepColumns = 9;

// What training changes: parameters, and the statistics of their norms.
std::vector<Parameter*> changed_by_training(Network& network) {
  std::vector<Parameter*> result;
  for (Parameter& p : network.store().all())
    if (p.trainable && !p.is_statistic()) result.push_back(&p);
  for (const BatchNorm& norm : network.norms())
    if (norm.weight->trainable) result.insert(result.end(), {norm.running_mean, norm.running_variance});
  return result;
}

// Of a unit's tensors, in messages between ranks and in a checkpoint's state.
std::string unit_prefix(int64_t unit) { return fmt::format("unit.{}.", unit); }

void add_tensor(const std::string& name, DType type, std::vector<int64_t> shape,
                std::span<const std::byte> bytes, HostTensors& to) {
  to.tensors.push_back({name, type, std::move(shape), to.contents.emplace_back(bytes.begin(), bytes.end())});
}

void add_tensor(Stream& stream, const std::string& name, const Tensor& tensor, HostTensors& to) {
  std::vector<std::byte> bytes(static_cast<size_t>(tensor.bytes()));
  stream.download(bytes.data(), tensor.data(), tensor.bytes());
  add_tensor(name, tensor.dtype(), {tensor.size()}, bytes, to);
}

std::string value_name(int64_t unit, const Parameter& p) { return unit_prefix(unit) + "value." + p.name; }

std::string moment_name(int64_t unit, const std::string& moment, const Parameter& p) {
  return fmt::format("{}optimizer.{}.{}", unit_prefix(unit), moment, p.name);
}

std::string pack(const HostTensors& tensors) {
  const SafetensorsImage image(tensors.tensors);
  std::string result;
  for (const std::span<const std::byte> piece : image.pieces)
    result.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  return result;
}

SafetensorsFile unpack(const std::string& packed) {
  const std::span<const std::byte> bytes = bytes_of(packed);
  return SafetensorsFile::parse({bytes.begin(), bytes.end()}, "a unit that a rank has trained");
}

template <typename T>
std::vector<T> elements_of(const TensorBytes& tensor) {
  TAPER_CHECK(tensor.dtype == dtype_of<T>(), "{} is of {}", tensor.name, name(tensor.dtype));
  std::vector<T> result(tensor.bytes.size() / sizeof(T));
  if (!result.empty()) std::memcpy(result.data(), tensor.bytes.data(), tensor.bytes.size());
  return result;
}

void copy_values(Team& team, Network& network, int64_t unit, HostTensors& to) {
  team.run_one([&](Stream& stream) {
    for (const Parameter* p : changed_by_training(network))
      add_tensor(stream, value_name(unit, *p), p->value(), to);
  });
}

void put_values(Team& team, Network& network, int64_t unit, const SafetensorsFile& from) {
  team.run_one([&](Stream& stream) {
    for (Parameter* p : changed_by_training(network)) {
      const TensorBytes& saved = from.tensor(value_name(unit, *p));
      Tensor value = p->value();
      TAPER_CHECK(saved.dtype == value.dtype() && std::ssize(saved.bytes) == value.bytes(), "{}", saved.name);
      stream.upload(value.data(), saved.bytes.data(), value.bytes());
      p->changed();
    }
  });
}

}  // namespace

// That are done, as the checkpoint says from which this process goes on.
int64_t Run::steps_of(int64_t unit) const {
  const TensorBytes* saved = restored_ ? restored_->state.find(unit_prefix(unit) + "steps") : nullptr;
  return saved == nullptr ? 0 : elements_of<int64_t>(*saved).at(0);
}

// This rank's unit as it is: steps, what to log of them, values and, of an optimizer, its state of the unit.
std::string Run::pack_unit(const Job& job, const std::vector<double>& events, const Optimizer* optimizer) {
  HostTensors tensors;
  const std::string prefix = unit_prefix(position_.unit);
  const int64_t steps[] = {position_.step, optimizer != nullptr ? optimizer->steps() : 0};
  add_tensor(prefix + "steps", DType::i64, {2}, std::as_bytes(std::span(steps)), tensors);
  add_tensor(prefix + "events", DType::f64, {std::ssize(events) / kStepColumns, kStepColumns},
             std::as_bytes(std::span(events)), tensors);
  Network& network = *models_[job.network].network;
  copy_values(*engine_.team, network, position_.unit, tensors);
  if (optimizer == nullptr) return pack(tensors);
  optimizer->save(*engine_.team, [&](const std::string& moment, const Tensor& whole) {
    engine_.team->run_one([&](Stream& stream) {
      for (const Parameter* p : changed_by_training(network))
        if (!p->is_statistic())
          add_tensor(stream, moment_name(position_.unit, moment, *p), whole.slice(p->offset, p->size),
                     tensors);
    });
  });
  return pack(tensors);
}

// This rank's unit where the checkpoint has it, and what it has to log.
std::vector<double> Run::resume_unit(const Job& job, Optimizer& optimizer) {
  if (position_.step == 0) return {};
  const SafetensorsFile& state = restored_->state;
  const std::string prefix = unit_prefix(position_.unit);
  Network& network = *models_[job.network].network;
  put_values(*engine_.team, network, position_.unit, state);
  std::vector<std::vector<std::byte>> wholes;
  optimizer.restore(*engine_.team, elements_of<int64_t>(state.tensor(prefix + "steps")).at(1),
                    [&](const std::string& moment, const Tensor& like) -> std::span<const std::byte> {
                      std::vector<std::byte> whole(static_cast<size_t>(like.bytes()));
                      for (const Parameter* p : changed_by_training(network)) {
                        if (p->is_statistic()) continue;
                        const TensorBytes& saved = state.tensor(moment_name(position_.unit, moment, *p));
                        TAPER_CHECK(saved.dtype == like.dtype() && saved.shape == Shape{p->size}, "{} in {}",
                                    saved.name, restored_->name);
                        std::ranges::copy(saved.bytes, whole.begin() + p->offset * size_of(saved.dtype));
                      }
                      return wholes.emplace_back(std::move(whole));
                    });
  return elements_of<double>(state.tensor(prefix + "events"));
}

// With the units of the round as they are, and those behind them that an earlier process has begun.
void Run::save_units(const std::vector<std::string>& packed) {
  HostTensors state;
  std::vector<SafetensorsFile> files;
  for (const std::string& unit : packed) {
    const std::vector<TensorBytes>& tensors = files.emplace_back(unpack(unit)).tensors();
    state.tensors.insert(state.tensors.end(), tensors.begin(), tensors.end());
  }
  for (int64_t unit = position_.unit + std::ssize(packed); unit < units(); ++unit)
    if (steps_of(unit) > 0)
      for (const TensorBytes& tensor : restored_->state.tensors())
        if (tensor.name.starts_with(unit_prefix(unit))) state.tensors.push_back(tensor);
  save(state);
}

// Logs the steps of a unit.
void Run::replay(const Job& job, const std::vector<double>& events) {
  for (auto row = events.begin(); row != events.end(); row += kStepColumns) {
    const auto step = static_cast<int64_t>(row[0]), skipped = static_cast<int64_t>(row[1]);
    if (skipped > 0) log_->skipped(skipped_ += skipped);
    if (!RunLog::recorded(step, job.plan.steps)) continue;
    log_->record({.stage = stage(),
                  .unit = position_.unit,
                  .step = step,
                  .epoch = static_cast<double>(step) / static_cast<double>(job.plan.steps_per_epoch),
                  .loss = row[2],
                  .lr = row[3],
                  .items_per_s = row[4],
                  .gflops = row[5],
                  .grad_norm = row[6],
                  .communication_s = row[7],
                  .waited_s = row[8]});
  }
}

// All groups take each step together, so that there is always a place to save. Where a checkpoint was made by
// more or fewer groups, some units are ahead, and wait.
bool Run::run_round() {
  const int64_t first = position_.unit, left = units() - first;
  const auto count =
      static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(std::min(engine_.ranks.ranks(), left))));
  if (!groups_ || groups_->count != count) {
    groups_.reset();
    groups_ = std::make_unique<RankGroups>(engine_, count);
  }
  std::vector<int64_t> steps;
  for (int64_t unit = first; unit < first + count; ++unit) steps.push_back(steps_of(unit));
  position_.unit = first + groups_->across.rank();
  position_.step = steps.at(static_cast<size_t>(groups_->across.rank()));
  const Job job = make_job(groups_->ranks);
  agree_on_providers(job);
  Network& network = *models_[job.network].network;
  HostTensors own;
  copy_values(*engine_.team, network, position_.unit, own);
  const SafetensorsFile untrained = unpack(pack(own));
  auto optimizer = std::make_unique<Optimizer>(*engine_.team, network.store(), job.plan.optimizer,
                                               configuration_.shard_optimizer ? &job.ranks : nullptr);
  std::vector<double> events = resume_unit(job, *optimizer);
  auto save_round = [&] {
    const std::string packed = pack_unit(job, events, optimizer.get());
    const std::vector<std::string> all = groups_->across.all_gather(packed);
    put_values(*engine_.team, network, position_.unit, untrained);  // as the others' are
    save_units(all);
    put_values(*engine_.team, network, position_.unit, unpack(packed));
  };
  const int64_t end = job.plan.steps;
  std::unique_ptr<Batches> batches;
  if (position_.step < end)
    batches = data_->train_batches(job.options, key(), position_.step, end, share(job));
  Pace pace;
  for (int64_t last = std::ranges::min(steps); last < end;) {  // `last`: steps of the one farthest behind
    ++last;
    for (int64_t& done : steps) {
      if (done == end) continue;
      ++done;
      ++sequence_;
    }
    if (position_.step < end) {
      const auto& [event, skipped] = take_step(job, *batches, *optimizer, pace);
      log_->show(event);
      if (skipped > 0 || RunLog::recorded(event.step, end))
        events.insert(events.end(), {static_cast<double>(event.step), static_cast<double>(skipped),
                                     event.loss, event.lr, event.items_per_s, event.gflops, event.grad_norm,
                                     event.communication_s, event.waited_s});
    }
    const bool saves = last < end && due(job, last, job.options.checkpoint_every);
    const bool stops = engine_.ranks.any(stop_requested);
    if (saves || stops || last == end) require_finite_weights(job);
    if (saves || stops) save_round();
    if (!stops) continue;
    say_stopped();
    return false;
  }
  optimizer.reset();
  const std::vector<std::string> trained = groups_->across.all_gather(pack_unit(job, events, nullptr));
  put_values(*engine_.team, network, position_.unit, untrained);
  for (int64_t i = 0; i < count; ++i) {
    position_.unit = first + i;
    position_.step = 0;
    const Job measured = make_job(engine_.ranks);
    begin_unit(measured);
    const SafetensorsFile unit = unpack(trained[static_cast<size_t>(i)]);
    put_values(*engine_.team, network, position_.unit, unit);
    replay(measured, elements_of<double>(unit.tensor(unit_prefix(position_.unit) + "events")));
    position_.step = end;
    end_unit(measured);
  }
  if (position_.unit < units()) save_units({});
  return true;
}

}  // namespace taper
