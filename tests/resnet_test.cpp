// ResNets as declared: names, shapes, counts, costs, initialisation, errors. What they compute is
// parity_test.cpp's matter.

#include "layers/resnet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "layers/weights.h"

namespace taper {
namespace {

using Style = ResNetSpec::Style;
using Kind = ResNetSpec::BlockKind;
using testing::HasSubstr;

ResNetSpec imagenet(Kind kind, int64_t depth) {
  return {.style = Style::imagenet, .block = kind, .depths = resnet_depths(Style::imagenet, kind, depth)};
}

ResNetSpec cifar(Kind kind, int64_t depth, int64_t width = 16) {
  return {.style = Style::cifar,
          .block = kind,
          .depths = resnet_depths(Style::cifar, kind, depth),
          .width = width,
          .channels = 3,
          .classes = 10};
}

int64_t parameters(const ResNetSpec& spec) { return make_resnet(spec)->store().parameter_count(); }

template <typename F>
std::string error_of(F f) {
  try {
    f();
  } catch (const UserError& error) {
    return error.what();
  }
  return "no error";
}

// The numbers of torchvision's documentation.
TEST(ResNet, HasTorchvisionsParameterCounts) {
  EXPECT_EQ(parameters(imagenet(Kind::basic, 18)), 11'689'512);
  EXPECT_EQ(parameters(imagenet(Kind::basic, 34)), 21'797'672);
  EXPECT_EQ(parameters(imagenet(Kind::bottleneck, 50)), 25'557'032);
  EXPECT_EQ(parameters(imagenet(Kind::bottleneck, 101)), 44'549'160);
  EXPECT_EQ(parameters(imagenet(Kind::bottleneck, 152)), 60'192'808);
  ResNetSpec wide = imagenet(Kind::bottleneck, 50);
  wide.inner = 2;
  EXPECT_EQ(parameters(wide), 68'883'240);
}

// Filters with 9 weights per pair of channels; two numbers per channel of a norm; projections into the second
// and third stage (bottleneck: into the first too).
int64_t cifar_basic(int64_t n, int64_t w, bool shortcuts) {
  int64_t stem = 27 * w + 2 * w, head = 40 * w + 10;
  int64_t inside = (2 * n) * 9 * w * w + (2 * n - 1) * 9 * (4 + 16) * w * w + 9 * (2 + 8) * w * w;
  int64_t norms = 2 * (2 * n) * (1 + 2 + 4) * w;
  int64_t projections = (2 + 8) * w * w + 2 * (2 + 4) * w;
  return stem + inside + norms + head + (shortcuts ? projections : 0);
}

int64_t cifar_bottleneck(int64_t n, int64_t w) {
  int64_t total = 27 * w + 2 * w + 10 * 16 * w + 10, in = w;
  for (int64_t stage = 0; stage < 3; ++stage) {
    int64_t mid = w << stage, out = 4 * mid;
    total += in * out + 2 * out;  // projection
    total += in * mid + (n - 1) * out * mid + n * (9 * mid * mid + mid * out) + n * 2 * (2 * mid + out);
    in = out;
  }
  return total;
}

TEST(ResNet, HasCifarsParameterCounts) {
  EXPECT_EQ(cifar_basic(3, 16, true), 272'474);  // the literature's ResNet-20 with projections
  for (int64_t depth : {20, 32, 44, 56, 110}) {
    ResNetSpec spec = cifar(Kind::basic, depth);
    EXPECT_EQ(parameters(spec), cifar_basic((depth - 2) / 6, 16, true)) << depth;
    spec.shortcuts = false;
    EXPECT_EQ(parameters(spec), cifar_basic((depth - 2) / 6, 16, false)) << depth;
  }
  for (int64_t depth : {29, 47, 56, 110, 164})
    EXPECT_EQ(parameters(cifar(Kind::bottleneck, depth, 8)), cifar_bottleneck((depth - 2) / 9, 8)) << depth;
}

TEST(ResNet, FullWideningIsAWiderNetwork) {
  ResNetSpec thin = cifar(Kind::basic, 20, 8), wide = cifar(Kind::basic, 20, 20);
  thin.full = 2.5;
  EXPECT_EQ(parameters(thin), parameters(wide));
  auto network = make_resnet(thin);
  EXPECT_EQ(network->stem_width(), 20);
  EXPECT_EQ(network->blocks().back().width, 80);
}

TEST(ResNet, InnerWideningKeepsBlockOutputs) {
  ResNetSpec spec = cifar(Kind::basic, 8, 8);
  spec.inner = 1.5;
  auto network = make_resnet(spec);
  EXPECT_EQ(network->stem_width(), 8);
  EXPECT_EQ(network->store().find("layer2.0.conv1.weight")->shape, (Shape{24, 3, 3, 8}));
  EXPECT_EQ(network->store().find("layer2.0.conv2.weight")->shape, (Shape{16, 3, 3, 24}));
  EXPECT_EQ(network->blocks()[1].width, 16);
}

TEST(ResNet, TensorsAreTorchvisionsInItsOrder) {
  auto network = make_resnet(imagenet(Kind::bottleneck, 50));
  std::vector<std::string> names;
  for (const Parameter& p : network->store().all()) names.push_back(p.name);
  EXPECT_THAT(std::vector(names.begin(), names.begin() + 6),
              testing::ElementsAre("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean",
                                   "bn1.running_var", "layer1.0.conv1.weight"));
  EXPECT_THAT(std::vector(names.end() - 2, names.end()), testing::ElementsAre("fc.weight", "fc.bias"));
  EXPECT_THAT(names, testing::IsSupersetOf({"layer1.0.downsample.0.weight",
                                            "layer1.0.downsample.1.running_var", "layer4.2.bn3.bias"}));
  EXPECT_THAT(names, testing::Not(testing::Contains("layer1.1.downsample.0.weight")));
  EXPECT_EQ(names.size(), 53u * 5 + 2);
  EXPECT_EQ(network->norms().size(), 53u);
}

TEST(ResNet, BlocksSayWhoReadsThem) {
  auto network = make_resnet(cifar(Kind::basic, 14, 4));
  const auto& blocks = network->blocks();
  ASSERT_EQ(blocks.size(), 6u);
  std::vector<bool> identity;
  for (const Block& block : blocks) identity.push_back(block.identity);
  EXPECT_THAT(identity, testing::ElementsAre(true, true, false, true, false, true));
  EXPECT_EQ(blocks[3].name, "layer2.1");
  EXPECT_EQ(blocks[3].stage, 1);
  ASSERT_EQ(blocks[2].readers.size(), 2u);
  EXPECT_EQ(blocks[2].readers[0]->name, "layer2.0.conv1.weight");
  EXPECT_EQ(blocks[2].readers[1]->name, "layer2.0.downsample.0.weight");
  // Every reader's last axis is the width of what it reads.
  int64_t width = network->stem_width();
  for (const Block& block : blocks) {
    for (const Parameter* reader : block.readers) EXPECT_EQ(reader->shape.back(), width) << reader->name;
    width = block.width;
  }
  for (const Parameter* reader : network->head_readers()) EXPECT_EQ(reader->shape.back(), width);

  ResNetSpec plain = cifar(Kind::basic, 14, 4);
  plain.shortcuts = false;
  auto without = make_resnet(plain);
  for (const Block& block : without->blocks()) {
    EXPECT_FALSE(block.identity);
    EXPECT_EQ(block.readers.size(), 1u);
  }
}

TEST(ResNet, CostsWhatTheLiteratureSays) {
  // He et al., Table 1: 1.8, 3.6, 3.8 and 11.3 billion multiply-adds at 224 x 224; v1.5 moves ResNet-50 to
  // 4.09 (torchvision's documentation), exactly 4,089,184,256.
  EXPECT_EQ(make_resnet(imagenet(Kind::bottleneck, 50))->cost({224, 224}).flops, int64_t{2} * 4'089'184'256);
  EXPECT_EQ(make_resnet(imagenet(Kind::basic, 18))->cost({224, 224}).flops, int64_t{2} * 1'814'073'344);
  // One block, by hand, on an 8 x 8 image: stem 3 -> 2, two convolutions 2 -> 2, 10 classes.
  ResNetSpec tiny{.style = Style::cifar, .block = Kind::basic, .depths = {1}, .width = 2, .classes = 10};
  Cost cost = make_resnet(tiny)->cost({8, 8});
  EXPECT_EQ(cost.flops, 2 * (64 * 9 * (3 * 2 + 2 * 2 + 2 * 2) + 20));
  EXPECT_EQ(cost.activation_elements, 64 * (3 + 3 * 2 * 2) + 2 + 10);
  EXPECT_EQ(cost.parameters, 54 + 4 + 2 * (36 + 4) + 30);
}

TEST(ResNet, RefusesWidthsThatAreNotWhole) {
  ResNetSpec spec = cifar(Kind::basic, 20, 9);
  spec.inner = 1.5;
  EXPECT_THAT(error_of([&] { make_resnet(spec); }), HasSubstr("layer1.0.conv1"));
  spec.inner = 1;
  spec.full = 1.5;
  EXPECT_THAT(error_of([&] { make_resnet(spec); }), HasSubstr("layer conv1 would have 9 x 1.5 = 13.5"));
  spec.full = 0.01;
  EXPECT_THAT(error_of([&] { make_resnet(spec); }), HasSubstr("conv1"));
  spec.full = 1e18;
  EXPECT_THAT(error_of([&] { make_resnet(spec); }), HasSubstr("conv1"));
  spec.full = std::nan("");
  EXPECT_THAT(error_of([&] { make_resnet(spec); }), HasSubstr("conv1"));
}

TEST(ResNet, RefusesDepthsThatDoNotExist) {
  EXPECT_EQ(resnet_depths(Style::cifar, Kind::bottleneck, 164), (std::vector<int64_t>{18, 18, 18}));
  EXPECT_THAT(error_of([] { resnet_depths(Style::imagenet, Kind::basic, 50); }), HasSubstr("18 and 34"));
  EXPECT_THAT(error_of([] { resnet_depths(Style::cifar, Kind::basic, 30); }), HasSubstr("26 and 32"));
  EXPECT_THAT(error_of([] { resnet_depths(Style::cifar, Kind::bottleneck, 2); }), HasSubstr("11 and 20"));
  EXPECT_THAT(error_of([] { resnet_depths(Style::cifar, Kind::basic, -4); }), HasSubstr("8 and 14"));
  ResNetSpec plain = cifar(Kind::basic, 20);
  plain.shortcuts = false;
  plain.zero_init_residual = true;
  EXPECT_THAT(error_of([&] { make_resnet(plain); }), HasSubstr("zero_init_residual"));
}

struct Moments {
  double mean = 0, deviation = 0, least = 0, most = 0;
};

Moments moments(const std::vector<double>& values) {
  Moments m;
  for (double v : values) m.mean += v / static_cast<double>(values.size());
  for (double v : values) m.deviation += (v - m.mean) * (v - m.mean) / static_cast<double>(values.size());
  m.deviation = std::sqrt(m.deviation);
  auto [least, most] = std::minmax_element(values.begin(), values.end());
  m.least = *least;
  m.most = *most;
  return m;
}

TEST(Initialize, DrawsWhatTorchvisionDraws) {
  HostStream stream;
  auto network = make_resnet(cifar(Kind::basic, 8, 32));
  network->store().allocate(stream, DType::f32);
  initialize(*network, stream, 1, false);
  auto values = [&](const char* name) { return host_values(stream, *network->store().find(name)); };
  // 36,864 normals of variance 2 / (64 * 9): their sample mean and deviation lie within 5 standard errors.
  double expected = std::sqrt(2.0 / (64 * 9)), count = 64 * 64 * 9;
  Moments filter = moments(values("layer2.0.conv2.weight"));
  EXPECT_NEAR(filter.mean, 0, 5 * expected / std::sqrt(count));
  EXPECT_NEAR(filter.deviation, expected, 5 * expected / std::sqrt(2 * count));
  EXPECT_GT(filter.most, 3 * expected);
  // 1,280 uniforms within 1 / sqrt(128).
  double bound = 1 / std::sqrt(128.0);
  Moments matrix = moments(values("fc.weight"));
  EXPECT_NEAR(matrix.deviation, bound / std::sqrt(3), 5 * bound / std::sqrt(1280.0));
  EXPECT_LE(matrix.most, bound);
  EXPECT_GE(matrix.least, -bound);
  EXPECT_GT(matrix.most, 0.95 * bound);
  Moments bias = moments(values("fc.bias"));
  EXPECT_LE(bias.most, bound);
  EXPECT_GT(bias.deviation, 0);
  EXPECT_THAT(values("layer3.0.bn1.weight"), testing::Each(1));
  EXPECT_THAT(values("layer3.0.bn1.running_var"), testing::Each(1));
  EXPECT_THAT(values("layer3.0.bn1.bias"), testing::Each(0));
  EXPECT_THAT(values("layer3.0.bn1.running_mean"), testing::Each(0));
  EXPECT_THAT(values("layer3.0.bn2.weight"), testing::Each(1));

  initialize(*network, stream, 1, true);
  EXPECT_THAT(values("layer3.0.bn2.weight"), testing::Each(0));
  EXPECT_THAT(values("layer3.0.bn1.weight"), testing::Each(1));
  EXPECT_THAT(values("layer3.0.downsample.1.weight"), testing::Each(1));
}

TEST(Initialize, DependsOnSeedAndNameOnly) {
  HostStream stream;
  // The deeper network has the shallower one's tensors among others.
  auto shallow = make_resnet(cifar(Kind::basic, 8, 4)), deep = make_resnet(cifar(Kind::basic, 14, 4));
  shallow->store().allocate(stream, DType::f32);
  deep->store().allocate(stream, DType::f32);
  initialize(*shallow, stream, 7, false);
  initialize(*deep, stream, 7, false);
  for (const Parameter& p : shallow->store().all())
    EXPECT_EQ(host_values(stream, p), host_values(stream, *deep->store().find(p.name))) << p.name;
  std::vector<double> before = host_values(stream, *shallow->store().find("conv1.weight"));
  initialize(*shallow, stream, 8, false);
  EXPECT_NE(before, host_values(stream, *shallow->store().find("conv1.weight")));
  EXPECT_NE(host_values(stream, *shallow->store().find("layer2.0.conv2.weight")),
            host_values(stream, *deep->store().find("layer2.1.conv2.weight")));
}

}  // namespace
}  // namespace taper
