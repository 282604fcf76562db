#pragma once
// The shapes that the benchmarks time: ResNet-50 at 224 x 224, one shard of 8 images, and the demo's network
// on 28 x 28.

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/conv.h"

namespace taper::bench {

/// A convolution, and how many times it occurs in the network.
struct Layer {
  std::string name;
  ConvShape shape;
  int count;
};

/// torchvision's resnet50 (v1.5): the 3 x 3 convolution carries the stride.
inline std::vector<Layer> resnet50(int64_t n) {
  std::vector<Layer> layers = {{"stem", {n, 224, 224, 3, 64, 7, 7, 2, 3}, 1}};
  int64_t input = 64, size = 56;
  const int blocks[] = {3, 4, 6, 3};
  for (int stage = 0; stage < 4; ++stage) {
    int64_t width = int64_t{64} << stage, output = 4 * width, stride = stage == 0 ? 1 : 2,
            out = size / stride;
    int rest = blocks[stage] - 1;
    auto add = [&](const char* part, ConvShape shape, int count) {
      layers.push_back({"layer" + std::to_string(stage + 1) + "." + part, shape, count});
    };
    add("0.conv1", {n, size, size, input, width, 1, 1}, 1);
    if (stride == 1)
      add("conv2", {n, out, out, width, width, 3, 3, 1, 1}, rest + 1);
    else
      add("0.conv2", {n, size, size, width, width, 3, 3, stride, 1}, 1);
    add("conv3", {n, out, out, width, output, 1, 1}, rest + 1);
    add("0.downsample", {n, size, size, input, output, 1, 1, stride}, 1);
    add("conv1", {n, out, out, output, width, 1, 1}, rest);
    if (stride != 1) add("conv2", {n, out, out, width, width, 3, 3, 1, 1}, rest);
    input = output;
    size = out;
  }
  return layers;
}

/// The 3 x 3 convolutions of a network for 28 x 28 images, wide and thin.
inline std::vector<Layer> demo(int64_t n) {
  return {{"demo.stem", {n, 28, 28, 1, 16, 3, 3, 1, 1}, 1},
          {"demo.16", {n, 28, 28, 16, 16, 3, 3, 1, 1}, 1},
          {"demo.16to32", {n, 28, 28, 16, 32, 3, 3, 2, 1}, 1},
          {"demo.32", {n, 14, 14, 32, 32, 3, 3, 1, 1}, 1},
          {"demo.64", {n, 7, 7, 64, 64, 3, 3, 1, 1}, 1},
          {"demo.wide64", {n, 28, 28, 64, 64, 3, 3, 1, 1}, 1},
          {"demo.wide128", {n, 14, 14, 128, 128, 3, 3, 1, 1}, 1},
          {"demo.pointwise", {n, 28, 28, 64, 16, 1, 1}, 1}};
}

}  // namespace taper::bench
