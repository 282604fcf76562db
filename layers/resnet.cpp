#include "layers/resnet.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "layers/weights.h"
#include "runtime/philox.h"

namespace taper {

namespace {

// A convolution and the norm that follows it.
struct ConvNorm {
  Conv conv;
  BatchNorm norm;
};

struct Residual {
  std::vector<ConvNorm> convs;         // two (basic) or three (bottleneck), in order
  std::optional<ConvNorm> downsample;  // the projection shortcut, where the shape changes
};

// An activation's extents, for counting.
struct Extents {
  int64_t h, w, c;
  int64_t elements() const { return h * w * c; }
};

ConvShape shape_on(const Conv& conv, const Extents& in) {
  const Shape& f = conv.filter->shape;
  return {.n = 1,
          .h = in.h,
          .w = in.w,
          .c = in.c,
          .k = f[0],
          .r = f[1],
          .s = f[2],
          .stride = conv.stride,
          .padding = conv.padding};
}

// Behind the max pooling of an ImageNet stem.
Extents pooled(const Extents& in) {
  PoolShape pool{1, in.h, in.w, in.c, 3, 2, 1};
  return {pool.out_h(), pool.out_w(), in.c};
}

class ResNet final : public Network {
 public:
  explicit ResNet(const ResNetSpec& spec);

  Var stem(Tape& tape, const Var& images, bool activated) const override {
    if (activated && spec_.activation != Activation::relu)
      return stem_activation(tape, stem(tape, images, false));
    return pool(tape, conv_batch_norm(tape, images, stem_.conv, stem_.norm, nullptr, activated), activated);
  }
  Var stem_activation(Tape& tape, const Var& x) const override {
    return pool(tape, activation(tape, x), true);
  }
  int64_t stem_width() const override { return stem_.norm.weight->size; }
  Var block(Tape& tape, int64_t i, const Var& x, bool activated) const override;
  Var activation(Tape& tape, const Var& x) const override { return activate(tape, spec_.activation, x); }
  Var head(Tape& tape, const Var& x) const override {
    return linear(tape, global_average_pool(tape, x), *fc_weight_, fc_bias_);
  }
  std::vector<Parameter*> head_readers() const override { return {fc_weight_}; }
  std::vector<Cost> costs(Extent extent) const override;
  int64_t positions(Extent extent, int64_t blocks, bool activated) const override;
  std::vector<std::string> head_parts() const override { return {"fc"}; }

 private:
  int64_t channels(const std::string& layer, int64_t width, double factor) const;
  ConvNorm add(const std::string& conv, const std::string& norm, int64_t in, int64_t out, int64_t size,
               int64_t stride);
  Var apply(Tape& tape, const Var& x, const ConvNorm& layer) const;
  // The stem's pooling, if it has one and it is `due`.
  Var pool(Tape& tape, const Var& x, bool due) const {
    return due && spec_.style == ResNetSpec::Style::imagenet ? max_pool(tape, x, 3, 2, 1) : x;
  }
  void add_block(const std::string& name, int64_t stage, int64_t in, int64_t width, int64_t stride);

  ResNetSpec spec_;
  ConvNorm stem_;
  std::vector<Residual> residuals_;  // one for each of blocks_
  Parameter *fc_weight_ = nullptr, *fc_bias_ = nullptr;
};

// width * factor, which has to be whole.
int64_t ResNet::channels(const std::string& layer, int64_t width, double factor) const {
  constexpr double kMost = 1 << 20;
  double exact = static_cast<double>(width) * factor, rounded = std::round(exact);
  if (!(rounded >= 1 && rounded <= kMost && std::abs(exact - rounded) <= 1e-9 * rounded))
    throw UserError(
        "layer {} would have {} x {:g} = {:g} output channels; choose a width and a widening factor whose "
        "product is whole, from 1 to {}",
        layer, width, factor, exact, kMost);
  return static_cast<int64_t>(rounded);
}

ConvNorm ResNet::add(const std::string& conv, const std::string& norm, int64_t in, int64_t out, int64_t size,
                     int64_t stride) {
  ConvNorm result;
  result.conv = {.filter = &store_.add(conv + ".weight", {out, size, size, in}, Role::filter),
                 .stride = stride,
                 .padding = size / 2};
  result.norm.weight = &store_.add(norm + ".weight", {out}, Role::norm_weight);
  result.norm.bias = &store_.add(norm + ".bias", {out}, Role::norm_bias);
  result.norm.running_mean = &store_.add(norm + ".running_mean", {out}, Role::running_mean);
  result.norm.running_variance = &store_.add(norm + ".running_var", {out}, Role::running_variance);
  return result;
}

void ResNet::add_block(const std::string& name, int64_t stage, int64_t in, int64_t width, int64_t stride) {
  bool basic = spec_.block == ResNetSpec::BlockKind::basic;
  int64_t last = basic ? width : 4 * width;  // its output, before the factor `full`
  int64_t inner = channels(name + ".conv1", width, spec_.inner * spec_.full);
  int64_t out = channels(name + (basic ? ".conv2" : ".conv3"), last, spec_.full);
  Residual block;
  // In torchvision's order, which is that of the tensors in the file. The stride is on the 3x3 convolution.
  if (basic) {
    block.convs.push_back(add(name + ".conv1", name + ".bn1", in, inner, 3, stride));
    block.convs.push_back(add(name + ".conv2", name + ".bn2", inner, out, 3, 1));
  } else {
    block.convs.push_back(add(name + ".conv1", name + ".bn1", in, inner, 1, 1));
    block.convs.push_back(add(name + ".conv2", name + ".bn2", inner, inner, 3, stride));
    block.convs.push_back(add(name + ".conv3", name + ".bn3", inner, out, 1, 1));
  }
  bool same_shape = stride == 1 && in == out;
  if (spec_.shortcuts && !same_shape)
    block.downsample = add(name + ".downsample.0", name + ".downsample.1", in, out, 1, stride);

  Block seen{
      .name = name, .stage = stage, .width = out, .identity = spec_.shortcuts && same_shape, .readers = {}};
  seen.readers.push_back(block.convs.front().conv.filter);
  if (block.downsample) {
    seen.readers.push_back(block.downsample->conv.filter);
    norms_.push_back(block.downsample->norm);
  }
  for (const ConvNorm& layer : block.convs) norms_.push_back(layer.norm);
  blocks_.push_back(std::move(seen));
  residuals_.push_back(std::move(block));
}

ResNet::ResNet(const ResNetSpec& spec) : spec_(spec) {
  TAPER_CHECK(spec.activation == Activation::relu || spec.activation == Activation::tanh,
              "a ResNet's activation is relu or tanh");
  TAPER_CHECK(spec.width > 0 && spec.width <= 1 << 20, "width {}", spec.width);
  TAPER_CHECK(spec.channels > 0 && spec.classes > 0 && !spec.depths.empty() && spec.depths.size() <= 8,
              "{} channels, {} classes, {} stages", spec.channels, spec.classes, spec.depths.size());
  if (spec.zero_init_residual && !spec.shortcuts)
    throw UserError(
        "zero_init_residual starts each block as its shortcut, and a plain network has none; set it to "
        "false");
  bool imagenet = spec.style == ResNetSpec::Style::imagenet;
  int64_t in = channels("conv1", spec.width, spec.full);
  stem_ = add("conv1", "bn1", spec.channels, in, imagenet ? 7 : 3, imagenet ? 2 : 1);
  norms_.push_back(stem_.norm);
  for (size_t stage = 0; stage < spec.depths.size(); ++stage) {
    TAPER_CHECK(spec.depths[stage] > 0, "stage {} has {} blocks", stage, spec.depths[stage]);
    int64_t width = spec.width << stage;
    for (int64_t i = 0; i < spec.depths[stage]; ++i) {
      add_block(fmt::format("layer{}.{}", stage + 1, i), static_cast<int64_t>(stage), in, width,
                i == 0 && stage > 0 ? 2 : 1);
      in = blocks_.back().width;
    }
  }
  fc_weight_ = &store_.add("fc.weight", {spec.classes, in}, Role::matrix);
  fc_bias_ = &store_.add("fc.bias", {spec.classes}, Role::bias);
}

Var ResNet::apply(Tape& tape, const Var& x, const ConvNorm& layer) const {
  bool relu = spec_.activation == Activation::relu;
  Var y = conv_batch_norm(tape, x, layer.conv, layer.norm, nullptr, relu);
  return relu ? y : activation(tape, y);
}

Var ResNet::block(Tape& tape, int64_t i, const Var& x, bool activated) const {
  const Residual& block = residuals_.at(static_cast<size_t>(i));
  bool relu = spec_.activation == Activation::relu;
  Var shortcut = spec_.shortcuts ? x : nullptr;
  if (block.downsample)
    shortcut = conv_batch_norm(tape, x, block.downsample->conv, block.downsample->norm, nullptr, false);
  Var y = x;
  for (size_t k = 0; k + 1 < block.convs.size(); ++k) y = apply(tape, y, block.convs[k]);
  const ConvNorm& last = block.convs.back();
  y = conv_batch_norm(tape, y, last.conv, last.norm, shortcut, relu && activated);
  return activated && !relu ? activation(tape, y) : y;
}

std::vector<Cost> ResNet::costs(Extent extent) const {
  auto [height, width] = extent;
  std::vector<Cost> parts;
  Cost cost;
  auto finish = [&] { parts.push_back(std::exchange(cost, {})); };
  // Kept of each layer: the convolution's output, the norm's, and that of an activation of its own.
  auto count = [&](const ConvNorm& layer, const Extents& in, bool activated) {
    ConvShape shape = shape_on(layer.conv, in);
    Extents out{shape.out_h(), shape.out_w(), shape.k};
    cost.parameters += shape.filter_size() + 2 * shape.k;
    cost.flops += shape.flops();
    cost.activation_elements += (activated && spec_.activation != Activation::relu ? 3 : 2) * out.elements();
    return out;
  };
  Extents x{height, width, spec_.channels};
  cost.activation_elements += x.elements();
  x = count(stem_, x, true);
  if (spec_.style == ResNetSpec::Style::imagenet) {
    x = pooled(x);
    cost.activation_elements += x.elements();
  }
  finish();
  for (const Residual& block : residuals_) {
    if (block.downsample) count(*block.downsample, x, false);
    for (const ConvNorm& layer : block.convs) x = count(layer, x, true);
    finish();
  }
  cost.parameters += fc_weight_->size + fc_bias_->size;
  cost.flops += 2 * fc_weight_->size;
  cost.activation_elements += x.c + fc_bias_->size;
  finish();
  return parts;
}

int64_t ResNet::positions(Extent extent, int64_t blocks, bool activated) const {
  auto [height, width] = extent;
  Extents x{height, width, spec_.channels};
  auto pass = [&](const ConvNorm& layer) {
    ConvShape shape = shape_on(layer.conv, x);
    x = {shape.out_h(), shape.out_w(), shape.k};
  };
  pass(stem_);
  if (spec_.style == ResNetSpec::Style::imagenet && (activated || blocks > 0)) x = pooled(x);
  for (int64_t i = 0; i < blocks; ++i)
    for (const ConvNorm& layer : residuals_.at(static_cast<size_t>(i)).convs) pass(layer);
  return x.h * x.w;
}

}  // namespace

std::unique_ptr<Network> make_resnet(const ResNetSpec& spec) { return std::make_unique<ResNet>(spec); }

std::vector<int64_t> resnet_depths(ResNetSpec::Style style, ResNetSpec::BlockKind block, int64_t depth) {
  bool basic = block == ResNetSpec::BlockKind::basic;
  const char* kind = basic ? "basic" : "bottleneck";
  if (style == ResNetSpec::Style::imagenet) {
    if (basic && depth == 18) return {2, 2, 2, 2};
    if (basic && depth == 34) return {3, 4, 6, 3};
    if (!basic && depth == 50) return {3, 4, 6, 3};
    if (!basic && depth == 101) return {3, 4, 23, 3};
    if (!basic && depth == 152) return {3, 8, 36, 3};
    throw UserError("there is no ImageNet ResNet of depth {} with {} blocks; there are {}", depth, kind,
                    basic ? "18 and 34" : "50, 101 and 152");
  }
  constexpr int64_t kMost = 10000;
  int64_t layers = basic ? 6 : 9, n = (depth - 2) / layers;
  if (depth >= layers + 2 && depth <= kMost && (depth - 2) % layers == 0) return {n, n, n};
  int64_t below = std::clamp(n, int64_t{1}, kMost / layers - 1);
  throw UserError(
      "there is no CIFAR ResNet of depth {} with {} blocks, which take {}n + 2; near it are {} and {}", depth,
      kind, layers, layers * below + 2, layers * (below + 1) + 2);
}

void initialize(Network& network, Stream& stream, uint64_t seed, bool zero_init_residual) {
  ParameterStore& store = network.store();
  for (Parameter& p : store.all()) {
    std::vector<double> values(static_cast<size_t>(p.size));
    // Rows (output channels) are samples, so that a row's counter never overflows.
    int64_t row = p.size / p.shape[0];
    auto draw = [&](auto next) {
      uint64_t key = fold(fold(seed, hash("initialize")), hash(p.name));
      for (int64_t k = 0; k < p.shape[0]; ++k) {
        Draws draws(key, 0, static_cast<uint64_t>(k));
        for (int64_t i = 0; i < row; ++i) values[static_cast<size_t>(k * row + i)] = next(draws);
      }
    };
    switch (p.role) {
      case Role::filter: {
        double deviation = std::sqrt(2.0 / static_cast<double>(p.shape[0] * p.shape[1] * p.shape[2]));
        draw([&](Draws& draws) { return deviation * draws.normal(); });
        break;
      }
      case Role::matrix:
      case Role::bias: {
        // A bias is drawn as its matrix is: "fc.bias" as "fc.weight".
        const Parameter* matrix = &p;
        if (p.role == Role::bias) matrix = store.find(p.name.substr(0, p.name.rfind('.')) + ".weight");
        TAPER_CHECK(matrix != nullptr && matrix->shape.size() == 2, "{} has no matrix", p.name);
        double bound = 1 / std::sqrt(static_cast<double>(matrix->shape[1]));
        draw([&](Draws& draws) { return bound * (2 * static_cast<double>(draws.uniform()) - 1); });
        break;
      }
      case Role::norm_weight:
      case Role::running_variance:
        std::fill(values.begin(), values.end(), 1.0);
        break;
      case Role::norm_bias:
      case Role::running_mean:
        break;  // zeros
    }
    set_values(stream, p, values);
  }
  if (!zero_init_residual) return;
  for (const Block& block : network.blocks()) {
    Parameter* last = store.find(block.name + ".bn3.weight");
    if (last == nullptr) last = store.find(block.name + ".bn2.weight");
    TAPER_CHECK(last != nullptr, "{} has no last norm", block.name);
    set_values(stream, *last, std::vector<double>(static_cast<size_t>(last->size)));
  }
}

}  // namespace taper
