#pragma once
// The shapes that the benchmarks time: ResNet-50 at 224 x 224, one shard of 8 images, and the demo's thin and
// wide network (recipes/configurations/fashion-resnet.toml) at 28 x 28, one shard of 64.

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/conv.h"

namespace taper::bench {

/// One of each shape of convolution in a network.
struct Layer {
  std::string name;
  ConvShape shape;
};

/// Stages of bottleneck blocks (v1.5: the 3 x 3 convolution carries the stride) on n images of `size` x
/// `size` with `input` channels: of stage i the 3 x 3 convolutions have inner 2^i channels, its output 4
/// width 2^i.
inline std::vector<Layer> bottlenecks(const std::string& network, int stages, int64_t n, int64_t size,
                                      int64_t input, int64_t width, int64_t inner) {
  std::vector<Layer> layers;
  for (int stage = 0; stage < stages; ++stage) {
    int64_t mid = inner << stage, output = 4 * width << stage, stride = stage == 0 ? 1 : 2,
            out = size / stride;
    auto add = [&](const char* part, ConvShape shape) {
      layers.push_back({network + "layer" + std::to_string(stage + 1) + "." + part, shape});
    };
    add("0.conv1", {n, size, size, input, mid, 1, 1});
    if (stride != 1) add("0.conv2", {n, size, size, mid, mid, 3, 3, stride, 1});
    add("0.downsample", {n, size, size, input, output, 1, 1, stride});
    add("conv1", {n, out, out, output, mid, 1, 1});
    add("conv2", {n, out, out, mid, mid, 3, 3, 1, 1});
    add("conv3", {n, out, out, mid, output, 1, 1});
    input = output;
    size = out;
  }
  return layers;
}

/// ResNet-50's and the demo's.
inline std::vector<Layer> layers() {
  constexpr int64_t kLarge = 8, kSmall = 64;
  std::vector<Layer> all = {{"stem", {kLarge, 224, 224, 3, 64, 7, 7, 2, 3}},
                            {"demo.stem", {kSmall, 28, 28, 1, 8, 3, 3, 1, 1}}};
  for (const std::vector<Layer>& blocks :
       {bottlenecks("", 4, kLarge, 56, 64, 64, 64), bottlenecks("demo.thin.", 3, kSmall, 28, 8, 8, 8),
        bottlenecks("demo.wide.", 3, kSmall, 28, 8, 8, 32)})
    all.insert(all.end(), blocks.begin(), blocks.end());
  return all;
}

/// Elements of the largest activation of a block, of ResNet-50 and the demo.
constexpr std::array<int64_t, 2> kActivations = {int64_t{8} * 56 * 56 * 256, int64_t{64} * 28 * 28 * 32};

}  // namespace taper::bench
