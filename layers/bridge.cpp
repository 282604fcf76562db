#include "layers/bridge.h"

#include <Eigen/Eigenvalues>
#include <algorithm>

#include "layers/weights.h"

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

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

int64_t width_before(const Network& network, int64_t block) {
  return block == 0 ? network.stem_width() : network.blocks()[static_cast<size_t>(block - 1)].width;
}

// Whether the value before block `begin` reaches the one before block `end` through identity shortcuts alone.
bool one_stream(const Network& network, int64_t begin, int64_t end) {
  return std::all_of(network.blocks().begin() + begin, network.blocks().begin() + end,
                     [](const Block& b) { return b.identity; });
}

// Eigenvalues ascend.
Eigen::SelfAdjointEigenSolver<Matrix> eigenvectors(const std::vector<double>& symmetric, int64_t size) {
  Eigen::SelfAdjointEigenSolver<Matrix> solver(Eigen::Map<const Matrix>(symmetric.data(), size, size));
  if (solver.info() != Eigen::Success)
    throw Failure("the eigenvectors of a {} x {} matrix did not converge", size, size);
  return solver;
}

// lift (lift^T lift)^-1; directions in which the lift is 0 to rounding stay 0.
std::vector<double> projection(const std::vector<double>& lift, int64_t wide, int64_t thin) {
  std::vector<double> transposed(lift.size()), inverse(static_cast<size_t>(thin * thin));
  for (int64_t i = 0; i < wide; ++i)
    for (int64_t j = 0; j < thin; ++j)
      transposed[static_cast<size_t>(j * wide + i)] = lift[static_cast<size_t>(i * thin + j)];
  auto solver = eigenvectors(multiply(transposed, lift, wide), thin);
  double least = solver.eigenvalues()[thin - 1] * static_cast<double>(thin) * 0x1p-52;
  for (int64_t k = 0; k < thin; ++k) {
    if (!(solver.eigenvalues()[k] > least)) continue;
    for (int64_t i = 0; i < thin; ++i)
      for (int64_t j = 0; j < thin; ++j)
        inverse[static_cast<size_t>(i * thin + j)] +=
            solver.eigenvectors()(i, k) * solver.eigenvectors()(j, k) / solver.eigenvalues()[k];
  }
  return multiply(lift, inverse, thin);
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

Tensor BridgedNetwork::project(Tape& tape, int64_t boundary, const Tensor& wide) const {
  const Parameter* up = lift(boundary);
  if (up == nullptr) return wide;
  int64_t broad = up->shape[0], narrow = up->shape[1];
  TAPER_CHECK(wide.shape().back() == broad, "{} projects {} channels, its input is {}", up->name, broad,
              to_string(wide.shape()));
  // The lift itself where its columns are orthonormal.
  Tensor map = kind_ == BridgeKind::tied
                   ? rounded(tape, *up)
                   : up->store().derived(
                         tape.stream, up->name + "/projection/" + name(tape.type), {up},
                         [&backend = tape.backend, up, type = tape.type, broad, narrow](Stream& stream) {
                           std::vector<double> values = projection(host_values(stream, *up), broad, narrow);
                           Tensor exact = Tensor::from<double>(stream, up->shape, values);
                           Tensor result(stream, type, up->shape);
                           backend.cast(stream, exact.size(), DType::f64, exact.data(), type, result.data());
                           return result;
                         });
  Shape shape = wide.shape();
  shape.back() = narrow;
  Tensor result = tape.empty(shape);
  tape.backend.matmul(tape.stream, {.m = wide.size() / broad, .n = narrow, .k = broad}, tape.type,
                      wide.data(), map.data(), {}, tape.type, result.data());
  return result;
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
  auto solver = eigenvectors(covariance, wide);
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

std::vector<double> multiply(const std::vector<double>& a, const std::vector<double>& b, int64_t inner) {
  int64_t rows = static_cast<int64_t>(a.size()) / inner, columns = static_cast<int64_t>(b.size()) / inner;
  std::vector<double> result(static_cast<size_t>(rows * columns));
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t k = 0; k < inner; ++k) {
      double factor = a[static_cast<size_t>(i * inner + k)];
      for (int64_t j = 0; j < columns; ++j)
        result[static_cast<size_t>(i * columns + j)] += factor * b[static_cast<size_t>(k * columns + j)];
    }
  return result;
}

void merge(Team& team, const BridgedNetwork& bridged, Network& plain) {
  Network& from = bridged.network();
  team.run_one([&](Stream& stream) {
    for (Parameter& p : plain.store().all()) {
      Parameter* source = from.store().find(p.name);
      TAPER_CHECK(source != nullptr && source->shape == p.shape, "{} has no counterpart to merge", p.name);
      set_values(stream, p, host_values(stream, *source));
    }
    for (size_t u = 0; u < bridged.units().size(); ++u) {
      auto boundary = static_cast<int64_t>(u);
      const Parameter* lower = bridged.lower(boundary);
      if (lower == nullptr) continue;
      int64_t thin = lower->shape[0], wide = lower->shape[1];
      std::vector<double> product =
          multiply(host_values(stream, *lower), host_values(stream, *bridged.lift(boundary)), wide);
      for (Parameter* reader : plain.blocks()[static_cast<size_t>(bridged.units()[u].begin)].readers)
        set_values(stream, *reader, multiply(host_values(stream, *reader), product, thin));
    }
  });
}

}  // namespace taper
