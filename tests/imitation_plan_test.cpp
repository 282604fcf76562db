// What imitation costs, against products counted by hand.

#include "recipes/imitation_plan.h"

#include <gtest/gtest.h>

#include "tests/imitation_setting.h"

namespace taper {
namespace {

using Setting = ImitationSetting;

TEST(ImitationPlan, CountsFlops) {
  // Filters' sizes times pixels: 28 x 28 in the first stage, 14 x 14 in the second.
  constexpr double kFirst = 2 * 28 * 28, kSecond = 2 * 14 * 14;
  constexpr double kStem = kFirst * 9 * 4;
  constexpr double kThin1 = kFirst * 9 * (4 * 4 + 4 * 4), kWide1 = kFirst * 9 * (4 * 8 + 8 * 4);
  constexpr double kThin2 = kSecond * (9 * (4 * 8 + 8 * 8) + 4 * 8);
  constexpr double kWide2 = kSecond * (9 * (4 * 16 + 16 * 8) + 4 * 8);
  // {student, teacher} of every round.
  using Costs = std::vector<std::pair<double, double>>;
  auto costs = [](const std::vector<std::string>& overrides) {
    Setting s(overrides);
    Costs result;
    for (Targets round : s.imitation.rounds()) {
      ImitationCost cost = s.imitation.cost(round);
      result.emplace_back(cost.student, cost.teacher);
    }
    return result;
  };
  EXPECT_EQ(costs({}), (Costs{{3 * kThin1 + kStem, kStem + kWide1},
                              {3 * kThin2 + kThin1 + kStem, kStem + kWide1 + kWide2}}));
  // The wide network runs once, for the unit's input and for its goal.
  EXPECT_EQ(costs({"imitate.input=teacher"}),
            (Costs{{3 * kThin1, kStem + kWide1}, {3 * kThin2, kStem + kWide1 + kWide2}}));
  EXPECT_EQ(costs({"imitate.order=together"}),
            (Costs{{3 * (kThin2 + kThin1) + kStem, kStem + kWide1 + kWide2}}));

  // Widened in full, 4 to 8 and 8 to 16. A tied bridge is one product t U for what is compared, and one for
  // what is read of the teacher.
  constexpr double kWideStem = kFirst * 9 * 8, kFull1 = kFirst * 9 * (8 * 8 + 8 * 8);
  constexpr double kFull2 = kSecond * (9 * (8 * 16 + 16 * 16) + 8 * 16);
  constexpr double kUp1 = kFirst * 8 * 4, kUp2 = kSecond * 16 * 8;
  constexpr double kAll1 = kWideStem + kFull1, kAll2 = kAll1 + kFull2;
  EXPECT_EQ(costs(kTied), (Costs{{3 * kStem, kWideStem + kUp1},
                                 {3 * kThin1 + kStem, kAll1 + kUp1},
                                 {3 * kThin2 + kThin1 + kStem, kAll2 + kUp2}}));
  EXPECT_EQ(costs(with(kTied, "imitate.input=teacher")), (Costs{{3 * kStem, kWideStem + kUp1},
                                                                {3 * kThin1, kAll1 + 2 * kUp1},
                                                                {3 * kThin2, kAll2 + kUp1 + kUp2}}));

  // Plain blocks have no projection. A free bridge's loss takes h (U^T U), h^T h and t^T h too; the bridge
  // that a unit reads is trained with it, the one below that is only run.
  constexpr double kPlain2 = kSecond * 9 * (4 * 8 + 8 * 8), kWidePlain2 = kSecond * 9 * (8 * 16 + 16 * 16);
  constexpr double kSquare1 = kFirst * 4 * 4, kSquare2 = kSecond * 8 * 8;
  constexpr double kLoss1 = 2 * kSquare1 + kUp1, kLoss2 = 2 * kSquare2 + kUp2;
  EXPECT_EQ(
      costs(kFree),
      (Costs{{3 * kStem + kLoss1, kWideStem + kUp1},
             {3 * kThin1 + kStem + 3 * kSquare1 + kLoss1, kAll1 + kUp1},
             {3 * kPlain2 + kThin1 + kStem + kSquare1 + 3 * kSquare1 + kLoss2, kAll1 + kWidePlain2 + kUp2}}));
  EXPECT_EQ(costs(with(kFree, "imitate.order=together")),
            (Costs{{3 * (kStem + kThin1 + kPlain2) + 6 * kSquare1 + 2 * kLoss1 + kLoss2,
                    kAll1 + kWidePlain2 + 2 * kUp1 + kUp2}}));
  Setting free(kFree), tied(kTied);
  EXPECT_EQ(bridge_flops(*free.thin.bridged, {28, 28}), 2 * kSquare1);
  EXPECT_EQ(bridge_flops(*tied.thin.bridged, {28, 28}), 0);
}

// An ImageNet stem is compared before its pooling, but under free bridges; what follows is not.
TEST(ImitationPlan, CountsBridgesBehindTheStemsPooling) {
  auto teacher = [](const std::string& bridges) {
    Setting s({"widen.kind=full", "network.kind=plain", "network.style=imagenet",
               "network.depths=[1, 1, 1, 1]", "imitate.bridges=" + bridges});
    const Network& wide = *s.wide.network;
    std::vector<double> products;
    for (Targets round : s.imitation.rounds()) {
      products.push_back(s.imitation.cost(round).teacher);
      for (int64_t i = 0; i <= round[0].boundary; ++i)
        products.back() -= static_cast<double>(wide.costs({28, 28})[static_cast<size_t>(i)].flops);
    }
    return products;
  };
  // 28 pixels, 14 behind the stem, 7 behind its pooling, then 4, 2 and 1.
  auto products = [](double stem) {
    return std::vector<double>{stem * 64, 2.0 * 7 * 7 * 8 * 4, 2.0 * 4 * 4 * 16 * 8, 2.0 * 2 * 2 * 32 * 16,
                               2.0 * 64 * 32};
  };
  EXPECT_EQ(teacher("tied"), products(14 * 14));
  EXPECT_EQ(teacher("free"), products(7 * 7));
}

}  // namespace
}  // namespace taper
