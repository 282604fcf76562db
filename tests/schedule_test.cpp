// Learning-rate schedules against their closed forms and values worked out by hand.

#include "layers/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

namespace taper {
namespace {

using Kind = Schedule::Kind;

TEST(Schedule, ConstantStaysAfterItsWarmUp) {
  const Schedule schedule{.kind = Kind::constant, .lr = 0.4, .steps = 10, .warmup = 4};
  const double expected[] = {0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4};
  for (int64_t step = 0; step < 10; ++step) EXPECT_DOUBLE_EQ(schedule.rate(step), expected[step]) << step;
}

TEST(Schedule, StepsFallAtTheirMilestones) {
  const Schedule schedule{
      .kind = Kind::step, .lr = 1, .steps = 8, .warmup = 2, .milestones = {3, 6}, .gamma = 0.5};
  const double expected[] = {0.5, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25};
  for (int64_t step = 0; step < 8; ++step) EXPECT_DOUBLE_EQ(schedule.rate(step), expected[step]) << step;
}

TEST(Schedule, MilestonesInTheWarmUpAreInForceAfterIt) {
  const Schedule schedule{
      .kind = Kind::step, .lr = 1, .steps = 8, .warmup = 4, .milestones = {2}, .gamma = 0.5};
  EXPECT_DOUBLE_EQ(schedule.rate(3), 1);
  EXPECT_DOUBLE_EQ(schedule.rate(4), 0.5);
}

TEST(Schedule, CosineFallsFromAllToNothing) {
  const Schedule schedule{.kind = Kind::cosine, .lr = 2, .steps = 13, .warmup = 1};
  EXPECT_DOUBLE_EQ(schedule.rate(0), 2);
  EXPECT_DOUBLE_EQ(schedule.rate(1), 2);
  EXPECT_DOUBLE_EQ(schedule.rate(3), 1 + std::sqrt(3) / 2);  // cos(30 degrees)
  EXPECT_DOUBLE_EQ(schedule.rate(5), 1.5);                   // cos(60 degrees)
  EXPECT_DOUBLE_EQ(schedule.rate(7), 1);                     // cos(90 degrees)
  EXPECT_DOUBLE_EQ(schedule.rate(9), 0.5);
  EXPECT_NEAR(schedule.rate(13), 0, 1e-15);
}

TEST(Schedule, LinearFallsByEqualSteps) {
  const Schedule schedule{.kind = Kind::linear, .lr = 1, .steps = 10, .warmup = 2};
  const double expected[] = {0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125};
  for (int64_t step = 0; step < 10; ++step) EXPECT_DOUBLE_EQ(schedule.rate(step), expected[step]) << step;
}

TEST(Schedule, NoWarmUpStartsAtTheFullRate) {
  for (Kind kind : {Kind::constant, Kind::step, Kind::cosine, Kind::linear})
    EXPECT_DOUBLE_EQ((Schedule{.kind = kind, .lr = 0.3, .steps = 5}.rate(0)), 0.3);
}

}  // namespace
}  // namespace taper
