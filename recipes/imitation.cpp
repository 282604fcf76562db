#include "recipes/imitation.h"

#include <algorithm>
#include <map>
#include <utility>

#include "recipes/evaluate.h"

namespace taper {

namespace {

// Samples to a task when the wide network is only observed.
constexpr int64_t kErrorPortion = 32;

}  // namespace

Imitation::Imitation(const Configuration& configuration, Engine& engine, const Data& data, Model& thin,
                     Model& wide)
    : configuration_(configuration),
      engine_(engine),
      data_(data),
      thin_(thin),
      wide_(wide),
      wide_units_(*wide.network, *wide.network,
                  make_units(*wide.network, configuration.imitate.unit == "stage"), BridgeKind::none),
      targets_(imitation_targets(*thin.bridged)) {}

// The wide network's output at a boundary as it is compared: before the last activation, but after it under
// free bridges, whose lift must lie next to the layer that reads it.
Var Imitation::teach(Tape& tape, const Var& input, int64_t boundary) const {
  if (boundary == 0) return wide_.network->stem(tape, input, free());
  Var x = wide_.network->stem(tape, input);
  for (int64_t u = 0; u < boundary; ++u) x = wide_units_.unit(tape, u, x, free() || u + 1 < boundary);
  return x;
}

// What the next unit of `network` reads, from a boundary's output as it is compared.
Var Imitation::activated(Tape& tape, const Network& network, const Var& x, int64_t boundary) const {
  if (free()) return x;
  return boundary == 0 ? network.stem_activation(tape, x) : network.activation(tape, x);
}

// One shard's losses and what was imitated, target by target. The targets' boundaries follow one another, and
// each target reads a constant, so that its loss trains nothing but itself. Both networks run once.
std::vector<Imitation::Compared> Imitation::compare(Tape& tape, const ShardInput& shard, Targets targets,
                                                    Input input, bool attention) const {
  const BridgedNetwork& student = *thin_.bridged;
  int64_t boundary = targets.front().boundary, below = boundary - 1;
  Tape teacher(*engine_.backend, tape.stream, engine_.type);
  teacher.sequences = tape.sequences;
  bool training = std::exchange(tape.training, false);  // what lies below the first target is frozen
  Var x = shard.input, t = shard.input;
  if (below >= 0) {
    t = teach(teacher, shard.input, below);
    if (input == Input::teacher) {
      x = tape.constant(student.project(tape, below, t->value));
      x = student.cross(tape, below, activated(tape, *thin_.network, x, below));
    } else {
      x = student.stem(tape, x);
      for (int64_t u = 0; u < below; ++u) x = student.cross(tape, u + 1, student.unit(tape, u, x));
    }
    t = activated(teacher, *wide_.network, t, below);
  }
  tape.training = training;
  std::vector<Compared> results;
  for (const ImitationTarget& target : targets) {
    boundary = target.boundary;
    std::vector<Attended> taught, learnt;
    if (attention) {
      teacher.attended = &taught;
      tape.attended = &learnt;
    }
    t = boundary == 0 ? wide_.network->stem(teacher, t, free())
                      : wide_units_.unit(teacher, boundary - 1, t, free());
    Var h =
        boundary == 0 ? thin_.network->stem(tape, x, free()) : student.unit(tape, boundary - 1, x, free());
    teacher.attended = tape.attended = nullptr;
    const Parameter* lift = student.lift(boundary);
    results.push_back(
        {lift != nullptr ? imitation(tape, h, t->value, *lift, !free()) : squared_error(tape, h, t->value),
         t->value});
    Tensor& loss = results.back().loss;
    for (size_t i = 0; i < learnt.size(); ++i) {
      Tensor divergence =
          attention_divergence(tape, taught[i], learnt[i], *tape.sequences, configuration_.imitate.attention);
      tape.backend.add(tape.stream, 1, loss.dtype(), loss.data(), divergence.data(), loss.data());
    }
    if (&target == &targets.back()) break;
    x = tape.constant(input == Input::teacher ? student.project(tape, boundary, t->value) : h->value);
    x = student.cross(tape, boundary, activated(tape, *thin_.network, x, boundary));
    t = activated(teacher, *wide_.network, t, boundary);
  }
  return results;
}

Objective Imitation::objective(Targets targets, Input input) const {
  return [this, targets, input](Tape& tape, const ShardInput& shard) {
    std::vector<Compared> results =
        compare(tape, shard, targets, input, configuration_.imitate.attention > 0);
    Tensor sum = results.front().loss;
    for (size_t i = 1; i < results.size(); ++i)
      tape.backend.add(tape.stream, 1, sum.dtype(), sum.data(), results[i].loss.data(), sum.data());
    return ShardLoss{sum, results.front().goal.dim(0)};
  };
}

bool Imitation::in_head(const std::string& parameter) const {
  std::vector<std::string> parts = thin_.network->head_parts();
  return std::any_of(parts.begin(), parts.end(),
                     [&](const std::string& part) { return belongs(parameter, part); });
}

bool Imitation::in_stem(const std::string& parameter) const {
  const auto& blocks = thin_.network->blocks();
  return !in_head(parameter) && !belongs(parameter, "bridge") &&
         std::none_of(blocks.begin(), blocks.end(),
                      [&](const Block& block) { return belongs(parameter, block.name); });
}

void Imitation::select(Targets targets) {
  const BridgedNetwork& student = *thin_.bridged;
  auto trained_by = [&](const Parameter& p, const ImitationTarget& target) {
    if (free() && (&p == student.lift(target.boundary) ||
                   (target.boundary > 0 && &p == student.lower(target.boundary - 1))))
      return true;
    if (target.boundary == 0) return in_stem(p.name);
    const Unit& unit = student.units()[static_cast<size_t>(target.boundary - 1)];
    const std::vector<Block>& blocks = student.network().blocks();
    return std::any_of(blocks.begin() + unit.begin, blocks.begin() + unit.end,
                       [&](const Block& block) { return belongs(p.name, block.name); });
  };
  for (Parameter& p : student.network().store().all())
    if (!p.is_statistic())
      p.trainable = std::any_of(targets.begin(), targets.end(),
                                [&](const ImitationTarget& target) { return trained_by(p, target); });
}

void Imitation::initialize() {
  if (thin_.bridged->kind() != BridgeKind::none) measure_bridges();
  if (thin_.bridged->lift(0) == nullptr) copy_stem();
  copy_head();
}

void Imitation::finish() {
  if (free()) copy_head();
}

// Each stream's uncentred covariance of the wide outputs as compared, summed in double over the boundaries
// that share its lift.
void Imitation::measure_bridges() {
  std::map<std::string, std::vector<int64_t>> streams;  // by the lift's name
  for (const ImitationTarget& target : targets_)
    if (const Parameter* lift = thin_.bridged->lift(target.boundary))
      streams[lift->name].push_back(target.boundary);
  int64_t samples = std::min(configuration_.imitate.bridge_samples, data_.facts().train);
  int64_t batches = (samples + kErrorPortion - 1) / kErrorPortion;
  for (auto& [name, boundaries] : streams) {
    Parameter& lift = *thin_.network->store().find(name);
    int64_t wide = lift.shape[0], thin = lift.shape[1];
    std::vector<double> covariance(static_cast<size_t>(wide * wide));
    std::unique_ptr<Batches> loader = data_.plain_batches(Split::train, kErrorPortion, samples);
    for (int64_t batch = 0; batch < batches; ++batch) {
      std::unique_ptr<Batch> portion = loader->next();
      if (portion->skipped == portion->count) continue;
      std::vector<std::vector<float>> products(boundaries.size());
      engine_.team->run(static_cast<int64_t>(boundaries.size()), [&](Stream& stream, int64_t i) {
        Tape tape(*engine_.backend, stream, engine_.type);
        ShardInput shard = portion->upload(tape, 0, portion->count);
        Tensor t = teach(tape, shard.input, boundaries[static_cast<size_t>(i)])->value;
        Tensor product(stream, DType::f32, {wide, wide});
        engine_.backend->matmul(stream, {.m = wide, .n = wide, .k = t.size() / wide, .transpose_a = true},
                                tape.type, t.data(), t.data(), {}, DType::f32, product.data());
        products[static_cast<size_t>(i)] = product.host<float>(stream);
      });
      for (const std::vector<float>& product : products)
        for (size_t i = 0; i < covariance.size(); ++i) covariance[i] += product[i];
    }
    std::vector<double> directions = principal_directions(covariance, wide, thin);
    engine_.team->run_one([&](Stream& stream) {
      set_values(stream, lift, directions);
      for (int64_t boundary : boundaries) {
        Parameter* lower = thin_.bridged->lower(boundary);
        if (lower == nullptr) continue;
        std::vector<double> transposed(directions.size());
        for (int64_t i = 0; i < wide; ++i)
          for (int64_t j = 0; j < thin; ++j)
            transposed[static_cast<size_t>(j * wide + i)] = directions[static_cast<size_t>(i * thin + j)];
        set_values(stream, *lower, transposed);
      }
    });
  }
}

void Imitation::copy_stem() {
  engine_.team->run_one([&](Stream& stream) {
    for (Parameter& p : thin_.network->store().all())
      if (in_stem(p.name)) set_values(stream, p, host_values(stream, *wide_.network->store().find(p.name)));
  });
}

// Times the last lift, where the widths differ. What then still has another shape, as BERT's head whose own
// layers are as wide as what they read, stays as initialised: no map of the wide one is exact.
void Imitation::copy_head() {
  std::vector<Parameter*> readers = thin_.network->head_readers();
  const Parameter* lift = thin_.bridged->lift(targets_.back().boundary);
  engine_.team->run_one([&](Stream& stream) {
    for (Parameter& p : thin_.network->store().all()) {
      if (!in_head(p.name)) continue;
      std::vector<double> values = host_values(stream, *wide_.network->store().find(p.name));
      if (lift != nullptr && std::find(readers.begin(), readers.end(), &p) != readers.end())
        values = multiply(values, host_values(stream, *lift), lift->shape[0]);
      if (std::ssize(values) == p.size) set_values(stream, p, values);
    }
  });
}

std::vector<double> Imitation::errors(Targets targets) const {
  size_t count = targets.size();
  auto fill = [&](Stream& stream, const Batch& batch, double* row) {
    Tape tape(*engine_.backend, stream, engine_.type);
    ShardInput shard = batch.upload(tape, 0, batch.count);
    if (shard.count == 0) return;
    std::vector<Compared> results = compare(tape, shard, targets, Input::sequential, false);
    for (size_t k = 0; k < count; ++k) {
      const Tensor& goal = results[k].goal;
      Tensor nothing = Tensor::zeros(stream, goal.dtype(), goal.shape());
      row[k] = results[k].loss.host<float>(stream)[0];
      row[count + k] = squared_error(tape, tape.constant(nothing), goal).host<float>(stream)[0];
    }
  };
  std::vector<double> rows =
      rows_of_batches(engine_, data_, Split::test, kErrorPortion, configuration_.imitate.bridge_samples,
                      static_cast<int64_t>(2 * count), fill);
  auto sum = [&](size_t column) {
    std::vector<double> values;
    for (size_t row = 0; row < rows.size(); row += 2 * count) values.push_back(rows[row + column]);
    return tree_sum(values);
  };
  std::vector<double> result;
  for (size_t k = 0; k < count; ++k) result.push_back(sum(k) / sum(count + k));
  return result;
}

}  // namespace taper
