#pragma once
// Residual networks (He et al., arXiv 1512.03385) as torchvision builds them (v1.5: the stride on the 3x3
// convolution), the CIFAR variants of the same paper, and both without shortcuts ("plain"). Tensor names are
// torchvision's.

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "layers/network.h"

namespace taper {

/// Everything that defines a ResNet.
struct ResNetSpec {
  enum class Style : uint8_t {
    imagenet,
    cifar
  };  ///< 7x7/2 stem with max pool and 4 stages, or 3x3 stem and 3 stages
  enum class BlockKind : uint8_t { basic, bottleneck };
  Style style = Style::imagenet;
  BlockKind block = BlockKind::bottleneck;
  std::vector<int64_t> depths = {3, 4, 6, 3};  ///< blocks of each stage
  int64_t width =
      64;  ///< channels of the stem and of the first stage's (inner) convolutions; doubles each stage
  bool shortcuts = true;                     ///< false: a plain net
  Activation activation = Activation::relu;  ///< relu or tanh
  int64_t channels = 3, classes = 1000;
  double inner = 1;                 ///< multiplies the channels inside each block
  double full = 1;                  ///< multiplies every width, block outputs and stem included
  bool zero_init_residual = false;  ///< as torchvision: the last norm of each block starts at 0
};

/// The depths of a named depth: imagenet 18, 34 (basic), 50, 101, 152 (bottleneck); cifar 6n+2 (basic) or
/// 9n+2 (bottleneck). UserError for a depth that does not exist, naming those near it.
std::vector<int64_t> resnet_depths(ResNetSpec::Style style, ResNetSpec::BlockKind block, int64_t depth);

/// Shapes and names only, no memory: call store().allocate() and initialize() or load weights. A width that
/// is not whole is a UserError that names the layer.
std::unique_ptr<Network> make_resnet(const ResNetSpec& spec);

/// torchvision's initialisation: filters normal with variance 2 / fan_out, norms 1 and 0, the last linear
/// layer uniform within 1 / sqrt(fan_in). Draws by Philox from (seed, the parameter's name): independent of
/// order and device.
void initialize(Network& network, Stream& stream, uint64_t seed, bool zero_init_residual);

}  // namespace taper
