#include "layers/bridge.h"

#include <Eigen/Dense>
#include <algorithm>

namespace taper {

std::vector<Unit> make_units(const Network& network, bool by_stage) {
  std::vector<Unit> units;
  const std::vector<Block>& blocks = network.blocks();
  for (size_t i = 0; i < blocks.size(); ++i) {
    auto index = static_cast<int64_t>(i);
    if (by_stage && i > 0 && blocks[i].stage == blocks[i - 1].stage) {
      units.back().end = index + 1;
      continue;
    }
    std::string name = by_stage ? blocks[i].name.substr(0, blocks[i].name.rfind('.')) : blocks[i].name;
    units.push_back({std::move(name), index, index + 1});
  }
  return units;
}

namespace {

int64_t width_before(const Network& network, int64_t block) {
  return block == 0 ? network.stem_width() : network.blocks()[static_cast<size_t>(block - 1)].width;
}

// Whether the value before block `begin` reaches the one before block `end` through identity shortcuts alone.
bool one_stream(const Network& network, int64_t begin, int64_t end) {
  return std::all_of(network.blocks().begin() + begin, network.blocks().begin() + end,
                     [](const Block& b) { return b.identity; });
}

}  // namespace

BridgedNetwork::BridgedNetwork(Network& thin, const Network& wide, std::vector<Unit> units, BridgeKind kind)
    : network_(thin), kind_(kind), units_(std::move(units)) {
  if (kind == BridgeKind::none) return;
  size_t boundaries = units_.size() + 1;
  lifts_.resize(boundaries);
  lowers_.resize(boundaries);
  for (size_t b = 0; b < boundaries; ++b) {
    int64_t block = b == 0 ? 0 : units_[b - 1].end;  // the one that reads this boundary
    int64_t narrow = width_before(thin, block), broad = width_before(wide, block);
    if (narrow == broad) continue;
    if (kind == BridgeKind::tied && b > 0 && lifts_[b - 1] &&
        one_stream(thin, b == 1 ? 0 : units_[b - 2].end, block)) {
      lifts_[b] = lifts_[b - 1];
      continue;
    }
    std::string name = fmt::format("bridge.{}", b);
    lifts_[b] = &thin.store().add(name + ".lift", {broad, narrow}, Role::matrix);
    if (kind == BridgeKind::tied) {
      lifts_[b]->trainable = false;
      continue;
    }
    if (b + 1 == boundaries) continue;
    const Block& reader = thin.blocks()[static_cast<size_t>(block)];
    if (reader.identity)
      throw UserError(
          "imitate.bridges = \"free\" cannot be merged exactly: {} has an identity shortcut, which carries "
          "its input past "
          "every layer that could take the bridge in; use imitate.bridges = \"tied\", or network.kind = "
          "\"plain\"",
          reader.name);
    lowers_[b] = &thin.store().add(name + ".lower", {narrow, broad}, Role::matrix);
  }
}

Var BridgedNetwork::cross(Tape& tape, int64_t boundary, const Var& x) const {
  Parameter* low = lower(boundary);
  return low != nullptr ? bridge(tape, x, *low, *lift(boundary)) : x;
}

Var BridgedNetwork::stem(Tape& tape, const Var& images) const {
  return cross(tape, 0, network_.stem(tape, images));
}

Var BridgedNetwork::unit(Tape& tape, int64_t u, const Var& x, bool activated) const {
  const Unit& unit = units_[static_cast<size_t>(u)];
  Var y = x;
  for (int64_t i = unit.begin; i < unit.end; ++i)
    y = network_.block(tape, i, y, activated || i + 1 < unit.end);
  return y;
}

Var BridgedNetwork::forward(Tape& tape, const Var& images) const {
  if (units_.empty()) return network_.forward(tape, images);
  Var x = stem(tape, images);
  for (size_t u = 0; u < units_.size(); ++u) {
    auto index = static_cast<int64_t>(u);
    x = cross(tape, index + 1, unit(tape, index, x));
  }
  return network_.head(tape, x);
}

std::vector<double> principal_directions(const std::vector<double>& covariance, int64_t wide, int64_t thin) {
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Eigen::SelfAdjointEigenSolver<Matrix> solver(Eigen::Map<const Matrix>(covariance.data(), wide, wide));
  if (solver.info() != Eigen::Success)
    throw Failure("the eigenvectors of a {} x {} covariance did not converge", wide, wide);
  std::vector<double> result(static_cast<size_t>(wide * thin));
  for (int64_t j = 0; j < thin; ++j) {
    auto direction = solver.eigenvectors().col(wide - 1 - j);  // eigenvalues ascend
    Eigen::Index largest = 0;
    direction.cwiseAbs().maxCoeff(&largest);
    double sign = direction[largest] < 0 ? -1 : 1;
    for (int64_t i = 0; i < wide; ++i) result[static_cast<size_t>(i * thin + j)] = sign * direction[i];
  }
  return result;
}

std::vector<float> multiply_last_axis(const std::vector<float>& weight, int64_t columns,
                                      const std::vector<float>& matrix, int64_t new_columns) {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  int64_t rows = static_cast<int64_t>(weight.size()) / columns;
  std::vector<float> result(static_cast<size_t>(rows * new_columns));
  Eigen::Map<Matrix>(result.data(), rows, new_columns) =
      (Eigen::Map<const Matrix>(weight.data(), rows, columns).cast<double>() *
       Eigen::Map<const Matrix>(matrix.data(), columns, new_columns).cast<double>())
          .cast<float>();
  return result;
}

void merge(Team& team, const BridgedNetwork& bridged, Network& plain) {
  Network& from = bridged.network();
  team.run_one([&](Stream& stream) {
    for (Parameter& p : plain.store().all()) {
      Parameter* source = from.store().find(p.name);
      TAPER_CHECK(source != nullptr && source->shape == p.shape, "{} has no counterpart to merge", p.name);
      Tensor to = p.value(), value = source->value();
      stream.copy(to.data(), value.data(), value.bytes());
      p.changed();
    }
    for (size_t u = 0; u < bridged.units().size(); ++u) {
      auto boundary = static_cast<int64_t>(u);
      Parameter* lower = bridged.lower(boundary);
      if (lower == nullptr) continue;
      int64_t thin = lower->shape[0], wide = lower->shape[1];
      auto product = multiply_last_axis(lower->value().host<float>(stream), wide,
                                        bridged.lift(boundary)->value().host<float>(stream), thin);
      for (Parameter* reader : plain.blocks()[static_cast<size_t>(bridged.units()[u].begin)].readers) {
        auto merged = multiply_last_axis(reader->value().host<float>(stream), thin, product, thin);
        Tensor value = reader->value();
        stream.upload(value.data(), merged.data(), value.bytes());
        reader->changed();
      }
    }
  });
}

}  // namespace taper
