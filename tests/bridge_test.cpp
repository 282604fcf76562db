// Units, bridges and merging, in double on the reference backend: every expected value is computed by loops
// of its own.

#include "layers/bridge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "layers/resnet.h"
#include "tests/network_values.h"

namespace taper {
namespace {

using testing::HasSubstr;

ResNetSpec small(ResNetSpec::BlockKind block, bool shortcuts) {
  return {.style = ResNetSpec::Style::cifar,
          .block = block,
          .depths = {2, 2},
          .width = 2,
          .shortcuts = shortcuts,
          .channels = 1,
          .classes = 3};
}

ResNetSpec basic(bool shortcuts) { return small(ResNetSpec::BlockKind::basic, shortcuts); }
ResNetSpec bottleneck(bool shortcuts) { return small(ResNetSpec::BlockKind::bottleneck, shortcuts); }

// A thin network with bridges to one of twice and a half its width.
struct Pair {
  Pair(const ResNetSpec& spec, bool by_stage, BridgeKind kind) {
    ResNetSpec widened = spec;
    widened.full = 2.5;
    thin = make_resnet(spec);
    wide = make_resnet(widened);
    bridged = std::make_unique<BridgedNetwork>(*thin, *wide, make_units(*thin, by_stage), kind);
  }
  std::unique_ptr<Network> thin, wide;
  std::unique_ptr<BridgedNetwork> bridged;
};

// For each boundary, the first boundary whose lift it has; -1 without one.
std::vector<int64_t> sharing(const BridgedNetwork& network) {
  std::vector<int64_t> result;
  auto boundaries = static_cast<int64_t>(network.units().size()) + 1;
  for (int64_t b = 0; b < boundaries; ++b) {
    int64_t first = network.lift(b) == nullptr ? -1 : 0;
    while (first >= 0 && network.lift(first) != network.lift(b)) ++first;
    result.push_back(first);
  }
  return result;
}

TEST(Units, AreBlocksOrStages) {
  auto network = make_resnet(basic(true));
  std::vector<Unit> blocks = make_units(*network, false), stages = make_units(*network, true);
  ASSERT_EQ(blocks.size(), 4u);
  EXPECT_EQ(blocks[2].name, "layer2.0");
  EXPECT_EQ(blocks[2].begin, 2);
  EXPECT_EQ(blocks[2].end, 3);
  ASSERT_EQ(stages.size(), 2u);
  EXPECT_EQ(stages[1].name, "layer2");
  EXPECT_EQ(stages[1].begin, 2);
  EXPECT_EQ(stages[1].end, 4);
}

TEST(TiedBridges, AreOneForEachStream) {
  using testing::ElementsAre;
  // A basic network's first stage keeps the stem's width, a bottleneck one's does not.
  EXPECT_THAT(sharing(*Pair(basic(true), false, BridgeKind::tied).bridged), ElementsAre(0, 0, 0, 3, 3));
  EXPECT_THAT(sharing(*Pair(bottleneck(true), false, BridgeKind::tied).bridged), ElementsAre(0, 1, 1, 3, 3));
  EXPECT_THAT(sharing(*Pair(basic(true), true, BridgeKind::tied).bridged), ElementsAre(0, 0, 2));
  EXPECT_THAT(sharing(*Pair(bottleneck(true), true, BridgeKind::tied).bridged), ElementsAre(0, 1, 2));
  EXPECT_THAT(sharing(*Pair(basic(false), false, BridgeKind::tied).bridged), ElementsAre(0, 1, 2, 3, 4));
  Pair pair(basic(true), false, BridgeKind::tied);
  EXPECT_EQ(pair.bridged->lift(3)->shape, (Shape{10, 4}));
  EXPECT_EQ(pair.bridged->lift(0)->shape, (Shape{5, 2}));
  for (int64_t b = 0; b < 5; ++b) {
    EXPECT_FALSE(pair.bridged->lift(b)->trainable);
    EXPECT_EQ(pair.bridged->lower(b), nullptr);
  }
}

TEST(Bridges, AreOnlyWhereWidthsDiffer) {
  auto thin = make_resnet(basic(true));
  ResNetSpec inner = basic(true);
  inner.inner = 2;
  auto wide = make_resnet(inner);
  BridgedNetwork bridged(*thin, *wide, make_units(*thin, false), BridgeKind::tied);
  EXPECT_THAT(sharing(bridged), testing::ElementsAre(-1, -1, -1, -1, -1));
}

TEST(FreeBridges, HaveAReaderEach) {
  Pair pair(basic(false), false, BridgeKind::free);
  EXPECT_THAT(sharing(*pair.bridged), testing::ElementsAre(0, 1, 2, 3, 4));
  for (int64_t b = 0; b < 4; ++b) {
    EXPECT_TRUE(pair.bridged->lift(b)->trainable);
    ASSERT_NE(pair.bridged->lower(b), nullptr);
    EXPECT_EQ(pair.bridged->lower(b)->shape, (Shape{b < 3 ? 2 : 4, b < 3 ? 5 : 10}));
  }
  EXPECT_EQ(pair.bridged->lower(4), nullptr);
  EXPECT_EQ(pair.bridged->lift(4)->shape, (Shape{10, 4}));
}

std::string refusal(const ResNetSpec& spec, bool by_stage) {
  try {
    Pair pair(spec, by_stage, BridgeKind::free);
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

TEST(FreeBridges, AreRefusedBeforeAnIdentityShortcut) {
  EXPECT_THAT(refusal(basic(true), false), HasSubstr("layer1.0 has an identity shortcut"));
  EXPECT_THAT(refusal(bottleneck(true), false), HasSubstr("layer1.1 has an identity shortcut"));
  EXPECT_EQ(refusal(bottleneck(true), true), "");
  EXPECT_EQ(refusal(basic(false), false), "");
}

class Reference : public testing::Test {
 protected:
  // Logits of two images.
  std::vector<double> logits(const BridgedNetwork& network, bool training, int64_t size) {
    Tape tape(*backend_, stream_, DType::f64);
    tape.training = training;
    Tensor images = Tensor::from<double>(stream_, {2, size, size, 1}, normals(2 * size * size, "images"));
    return network.forward(tape, tape.constant(images))->value.host<double>(stream_);
  }
  void make(Network& network) {
    network.store().allocate(stream_, DType::f64);
    randomize(stream_, network.store());
  }

  std::unique_ptr<Backend> backend_ = make_reference_backend();
  Team team_{*backend_, 1, 1};
  HostStream stream_;
};

double worst(const std::vector<double>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

class Merge : public Reference, public testing::WithParamInterface<std::pair<const char*, bool>> {};

TEST_P(Merge, KeepsTheLogitsOfFreeBridges) {
  std::string name = GetParam().first;
  ResNetSpec spec =
      name == "bottleneck" || name == "residual" ? bottleneck(name == "residual") : basic(false);
  if (name == "tanh") spec.activation = Activation::tanh;
  if (name == "imagenet") spec.style = ResNetSpec::Style::imagenet;
  int64_t size = name == "imagenet" ? 16 : 6;
  Pair pair(spec, name == "residual", BridgeKind::free);
  make(*pair.thin);
  auto plain = make_resnet(spec);
  plain->store().allocate(stream_, DType::f64);
  merge(team_, *pair.bridged, *plain);
  bool training = GetParam().second;
  std::vector<double> before = logits(*pair.bridged, training, size),
                      after = logits(BridgedNetwork(*plain), training, size);
  // Fifteen layers of sums of fewer than 100 terms, each of which rounds by 2^-53 of what it adds, and norms
  // that divide by deviations of more than a hundredth: less than 1e-9.
  EXPECT_LT(worst(before, after), 1e-9);
  // Bridges that did nothing would prove nothing.
  for (Parameter& p : plain->store().all())
    set_values(stream_, p, host_values(stream_, *pair.thin->store().find(p.name)));
  EXPECT_GT(worst(before, logits(BridgedNetwork(*plain), training, size)), 1e-2);
}

INSTANTIATE_TEST_SUITE_P(Networks, Merge,
                         testing::Values(std::pair("basic", false), std::pair("basic", true),
                                         std::pair("bottleneck", false), std::pair("bottleneck", true),
                                         std::pair("tanh", false), std::pair("tanh", true),
                                         std::pair("imagenet", false), std::pair("imagenet", true),
                                         std::pair("residual", false), std::pair("residual", true)),
                         [](const auto& info) {
                           return std::string(info.param.first) + (info.param.second ? "_train" : "_eval");
                         });

TEST_F(Reference, MergingTiedBridgesDeletesThem) {
  Pair pair(basic(true), false, BridgeKind::tied);
  make(*pair.thin);
  auto plain = make_resnet(basic(true));
  plain->store().allocate(stream_, DType::f64);
  merge(team_, *pair.bridged, *plain);
  EXPECT_EQ(plain->store().find("bridge.0.lift"), nullptr);
  for (const Parameter& p : plain->store().all())
    EXPECT_EQ(host_values(stream_, p), host_values(stream_, *pair.thin->store().find(p.name))) << p.name;
  EXPECT_EQ(logits(*pair.bridged, false, 6), logits(BridgedNetwork(*plain), false, 6));
}

TEST(PrincipalDirections, AreTheClosedForm) {
  // 5 q1 q1' + 1 q2 q2' + 3 q3 q3' with q1 = (3, 4, 0) / 5, q2 = (-4, 3, 0) / 5, q3 = (0, 0, 1).
  std::vector<double> covariance(9);
  const double q[3][3] = {{0.6, 0.8, 0}, {-0.8, 0.6, 0}, {0, 0, 1}}, values[3] = {5, 1, 3};
  for (size_t k = 0; k < 3; ++k)
    for (size_t i = 0; i < 3; ++i)
      for (size_t j = 0; j < 3; ++j) covariance[3 * i + j] += values[k] * q[k][i] * q[k][j];
  // By falling eigenvalue; q2 with its largest entry made positive.
  const double expected[3][3] = {{0.6, 0, 0.8}, {0.8, 0, -0.6}, {0, 1, 0}};
  for (int64_t thin = 1; thin <= 3; ++thin) {
    std::vector<double> u = principal_directions(covariance, 3, thin);
    ASSERT_EQ(u.size(), static_cast<size_t>(3 * thin));
    for (int64_t i = 0; i < 3; ++i)
      for (int64_t j = 0; j < thin; ++j)
        EXPECT_NEAR(u[static_cast<size_t>(i * thin + j)], expected[i][j], 1e-14) << i << " " << j;
  }
}

TEST(PrincipalDirections, AreOrthonormalEigenvectors) {
  constexpr int64_t kWide = 12, kThin = 5, kRows = 40;
  std::vector<double> x = normals(kRows * kWide, "rows"), covariance(kWide * kWide);
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t i = 0; i < kWide * kWide; ++i)
      covariance[static_cast<size_t>(i)] +=
          x[static_cast<size_t>(r * kWide + i / kWide)] * x[static_cast<size_t>(r * kWide + i % kWide)];
  std::vector<double> u = principal_directions(covariance, kWide, kThin);
  auto at = [&](int64_t i, int64_t j) { return u[static_cast<size_t>(i * kThin + j)]; };
  double last = INFINITY;
  for (int64_t j = 0; j < kThin; ++j) {
    double largest = 0, value = 0;
    std::vector<double> image(kWide);
    for (int64_t i = 0; i < kWide; ++i) {
      if (std::abs(at(i, j)) > std::abs(largest)) largest = at(i, j);
      for (int64_t k = 0; k < kWide; ++k)
        image[static_cast<size_t>(i)] += covariance[static_cast<size_t>(i * kWide + k)] * at(k, j);
      value += at(i, j) * image[static_cast<size_t>(i)];
    }
    EXPECT_GT(largest, 0);
    EXPECT_LT(value, last);
    last = value;
    for (int64_t i = 0; i < kWide; ++i) EXPECT_NEAR(image[static_cast<size_t>(i)], value * at(i, j), 1e-11);
    for (int64_t k = 0; k < kThin; ++k) {
      double product = 0;
      for (int64_t i = 0; i < kWide; ++i) product += at(i, j) * at(i, k);
      EXPECT_NEAR(product, j == k ? 1 : 0, 1e-13);
    }
  }
}

// The lifted projection's error is orthogonal to every column of the lift: it is the nearest one.
TEST_F(Reference, ProjectsToTheNearestThinOutput) {
  Pair pair(basic(false), false, BridgeKind::free);
  make(*pair.thin);
  Tape tape(*backend_, stream_, DType::f64);
  auto t = normals(7 * 5, "t"), u = host_values(stream_, *pair.bridged->lift(1));
  Tensor projected = pair.bridged->project(tape, 1, Tensor::from<double>(stream_, {7, 5}, t));
  EXPECT_EQ(projected.shape(), (Shape{7, 2}));
  auto h = projected.host<double>(stream_);
  for (size_t r = 0; r < 7; ++r)
    for (size_t j = 0; j < 2; ++j) {
      double dot = 0;
      for (size_t w = 0; w < 5; ++w) {
        double error = t[r * 5 + w] - h[r * 2] * u[w * 2] - h[r * 2 + 1] * u[w * 2 + 1];
        dot += error * u[w * 2 + j];
      }
      EXPECT_NEAR(dot, 0, 1e-13);
    }
}

}  // namespace
}  // namespace taper
