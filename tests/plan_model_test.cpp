// taper plan's model: sums over ranks against their messages counted one by one.

#include "recipes/plan_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "runtime/error.h"

namespace taper {
namespace {

using ::testing::HasSubstr;

TEST(PlanModel, ReadsLinks) {
  const Link named = parse_link("ib400");
  EXPECT_EQ(named.name, "ib400");
  EXPECT_DOUBLE_EQ(named.bandwidth, 400e9 / 8);
  const Link measured = parse_link("1.5ms:250MB/s");
  EXPECT_DOUBLE_EQ(measured.latency, 1.5e-3);
  EXPECT_DOUBLE_EQ(measured.bandwidth, 250e6);
  for (const char* text : {"", "ib", "30us", "30us:1.2", "-1us:1GB/s", "1us:0GB/s", "1us:nanGB/s",
                           "1us:infGB/s", "1us:1GB/sx", "1GB:1us/s", "1us:1us/s", "ib400 "})
    EXPECT_THROW(parse_link(text), UserError) << text;
  try {
    parse_link("token-ring");
    ADD_FAILURE();
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("\"token-ring\" is no link; there are nvlink, "));
  }
}

// Follows every rank through the reduce-scatter: it keeps the half of its range that its bit chooses and
// sends the other. The slowest rank or node decides how long a message takes.
double counted(const Cluster& cluster, int64_t bytes, double& off_node) {
  double seconds = 0;
  off_node = 0;
  std::vector<double> kept(static_cast<size_t>(cluster.ranks), static_cast<double>(bytes));
  for (int64_t bit = 1; bit < cluster.ranks; bit *= 2) {
    std::map<int64_t, double> leaves;  // by node
    double slowest = 0;
    for (int64_t rank = 0; rank < cluster.ranks; ++rank) {
      double& own = kept[static_cast<size_t>(rank)];
      own /= 2;
      const int64_t node = rank / cluster.per_node, other = (rank ^ bit) / cluster.per_node;
      if (node == other) {
        slowest = std::max(slowest, cluster.inside.latency + own / cluster.inside.bandwidth);
      } else {
        leaves[node] += own;
      }
    }
    for (const auto& [node, sum] : leaves) {
      slowest = std::max(slowest, cluster.between.latency + sum / cluster.between.bandwidth);
      if (node == 0) off_node += sum;
    }
    seconds += slowest;
  }
  for (const double own : kept)
    EXPECT_DOUBLE_EQ(own, static_cast<double>(bytes) / static_cast<double>(cluster.ranks));
  return 2 * seconds;
}

TEST(PlanModel, SumsTakeWhatTheirMessagesTake) {
  constexpr int64_t kBytes = int64_t{100} << 20;
  for (int64_t ranks = 1; ranks <= 64; ranks *= 2)
    for (int64_t per_node = 1; per_node <= ranks; per_node *= 2) {
      const Cluster cluster{ranks, per_node, {"inside", 1e-6, 3e11}, {"between", 2e-5, 1e9}};
      double off_node = 0;
      const double expected = counted(cluster, kBytes, off_node);
      EXPECT_NEAR(all_reduce_seconds(cluster, kBytes), expected, 1e-12 * expected)
          << ranks << " ranks, " << per_node << " on a node";
      // About one buffer leaves a node in each phase, however many ranks it has.
      EXPECT_LE(off_node, static_cast<double>(kBytes));
    }
}

TEST(PlanModel, StepsAreRoundsOfShards) {
  const Link slow{"slow", 1, 10};
  const StepTimes times{.round = 5, .update = 2};
  auto step = [&](int64_t ranks, int64_t workers) {
    return predict_step({ranks, 1, slow, slow}, times, 8, workers, 40);
  };
  EXPECT_DOUBLE_EQ(step(1, 3).seconds(), 3 * 5 + 2);
  EXPECT_DOUBLE_EQ(step(1, 3).communication, 0);
  EXPECT_DOUBLE_EQ(step(4, 2).compute, 5);
  EXPECT_DOUBLE_EQ(step(8, 2).compute, 5);  // a worker waits
  EXPECT_THROW(step(3, 1), Failure);
  EXPECT_THROW(step(16, 1), Failure);
}

TEST(PlanModel, CommunicationHidesBehindBackward) {
  const StepTimes times{.round = 6, .update = 2};
  auto step = [&](const Link& link, int64_t bytes) {
    return predict_step({4, 1, link, link}, times, 8, 2, bytes);
  };
  // 8 buckets of 40 bytes: messages of 20 and 10 bytes each, there and back. A bucket is ready every half
  // second from 2.5 s on, and takes longer than that, so each waits for the one before.
  const StepPrediction slow = step({"slow", 1, 10}, 320);
  const double each = 2 * (1 + 2.0) + 2 * (1 + 1.0);
  EXPECT_DOUBLE_EQ(slow.communication, 8 * each);
  EXPECT_DOUBLE_EQ(slow.exposed, 2.5 + 8 * each - 6);
  EXPECT_DOUBLE_EQ(slow.seconds(), 6 + 2 + slow.exposed);
  // Where a bucket is through before the next is ready, the last one alone shows.
  const StepPrediction fast = step({"fast", 0.01, 1000}, 320);
  EXPECT_NEAR(fast.exposed, fast.communication / 8, 1e-12);
  // A bucket has 25 MiB at most.
  const int64_t mebibyte = int64_t{1} << 20;
  EXPECT_NEAR(step({"fast", 0, 1e12}, 1000 * mebibyte).exposed,
              2 * (12.5 + 6.25) * static_cast<double>(mebibyte) / 1e12, 1e-12);
}

}  // namespace
}  // namespace taper
