// Sums by the library that connects the ranks, which mpirun starts: near the exact ones, and the same on
// every rank.

#include <gmock/gmock.h>

#include <cmath>

#include "autograd/collectives.h"
#include "kernels/backend.h"
#include "runtime/philox.h"
#include "tests/rank_runs.h"

namespace taper {
namespace {

using testing::HasSubstr;

constexpr int kRanks = 4;

class FastSums : public RankRuns {
 protected:
  // Starts a command on four ranks.
  Result run_ranks(const std::vector<std::string>& command) {
    std::vector<std::string> all = {"mpirun", "--allow-run-as-root", "--oversubscribe", "-n",
                                    std::to_string(kRanks)};
    all.insert(all.end(), command.begin(), command.end());
    setenv("ASAN_OPTIONS", "detect_leaks=0",
           1);  // Open MPI keeps what it has allocated until the process ends
    return wait(launch(std::move(all)));
  }
  std::vector<std::string> training(const fs::path& output, std::vector<std::string> more) const {
    std::vector<std::string> arguments = train(output, settings(std::move(more)));
    arguments.insert(arguments.begin(), taper_binary());
    return arguments;
  }
};

// Rank r's value number i: of many magnitudes, so that the order of additions shows.
float value(int64_t rank, int64_t i) {
  Draws draws(5, static_cast<uint64_t>(rank), static_cast<uint64_t>(i));
  return (2 * draws.uniform() - 1) * std::exp2(static_cast<float>(draws.below(24)));
}

// In a rank's process: buckets of gradients, as a step sums them.
void sum_buckets(Communicator& ranks) {
  constexpr int64_t kSize = 50'000;
  const std::unique_ptr<Backend> backend = make_cpu_backend();
  Team team(*backend, 1, 1);
  auto sum = [&](Reduction reduction) {
    Tensor gradients;
    team.run_one([&](Stream& stream) {
      std::vector<float> own;
      for (int64_t i = 0; i < kSize; ++i) own.push_back(value(ranks.rank(), i));
      gradients = Tensor::from<float>(stream, {kSize}, own);
    });
    BucketSums sums(ranks, team, {{20'000, kSize}, {0, 20'000}}, nullptr, reduction);
    for (int64_t bucket : {1, 0}) sums.ready(bucket, gradients);
    for (int64_t bucket : {0, 1}) sums.wait(bucket);
    std::vector<float> result;
    team.run_one([&](Stream& stream) { result = gradients.host<float>(stream); });
    return result;
  };
  const std::vector<float> exact = sum(Reduction::exact), fast = sum(Reduction::fast);
  // Whatever the order, a sum of n values is within (n - 1) u / (1 - (n - 1) u) times their magnitudes of the
  // true one; so two sums are within twice that of each other.
  constexpr double kUnit = 0x1p-24, kGamma = (kRanks - 1) * kUnit / (1 - (kRanks - 1) * kUnit);
  for (int64_t i = 0; i < kSize; ++i) {
    double magnitude = 0;
    for (int64_t rank = 0; rank < kRanks; ++rank) magnitude += std::abs(value(rank, i));
    const auto at = static_cast<size_t>(i);
    ASSERT_LE(std::abs(double{fast[at]} - exact[at]), 2 * kGamma * magnitude) << i;
  }
  const std::string own(reinterpret_cast<const char*>(fast.data()), fast.size() * sizeof(float));
  for (const std::string& theirs : ranks.all_gather(own)) EXPECT_TRUE(theirs == own);
}

TEST_F(FastSums, SumsOfTheLibraryAreNearTheExactOnesAndTheSameOnAllRanks) {
  if (std::getenv("OMPI_COMM_WORLD_RANK") == nullptr) {
    const Result result =
        run_ranks({fs::read_symlink("/proc/self/exe").string(), "--gtest_filter=*SumsOfTheLibrary*"});
    EXPECT_EQ(result.code, 0) << result.text;
    EXPECT_EQ(count(result.text, "[  PASSED  ]"), kRanks) << result.text;
    return;
  }
  const std::unique_ptr<Communicator> ranks = make_communicator(process_environment());
  sum_buckets(*ranks);
  ranks->finish();
}

// At each checkpoint all ranks compare their weights: so a run that ends well has had the same on all of
// them.
TEST_F(FastSums, AFastRunEndsWellAndSaysThatItWasFast) {
  const fs::path output = folder_ / "run";
  const Result result = run_ranks(training(output, {"shards=4", "reduction=fast", "shard_optimizer=true"}));
  ASSERT_EQ(result.code, 0) << result.text;
  EXPECT_THAT(read(output / "config.toml"), HasSubstr("reduction = \"fast\""));
  EXPECT_THAT(read(output / "metrics.jsonl"), HasSubstr("reduction = \\\"fast\\\""));
  // Another reduction would be another run.
  const Result resumed = run(train(output, settings({"shards=4", "shard_optimizer=true"}, true)));
  EXPECT_EQ(resumed.code, 2);
  EXPECT_THAT(resumed.text, HasSubstr("reduction is \"fast\" there and \"exact\" here"));
}

TEST_F(FastSums, SimulatedGpusSumByNccl) {
  if (cuda_device() != "sim") GTEST_SKIP() << "this build has no device sim";
  const Result result = run_ranks(
      training(folder_ / "run", {"device=sim", "shards=4", "reduction=fast", "stages=[\"baseline\"]",
                                 "network.width=4", "data.train_limit=32", "data.test_limit=8",
                                 "baseline.batch_size=8", "baseline.steps=2", "baseline.evaluate_every=2"}));
  EXPECT_EQ(result.code, 0) << result.text;
}

TEST_F(FastSums, RanksWithoutALibraryHaveNoFastOne) {
  const Results results = wait_for_all(start_alone(2, train(folder_ / "run", settings({"reduction=fast"}))));
  EXPECT_EQ(results.codes, std::vector<int>({2, 2})) << results.text;
  EXPECT_EQ(count(results.text, "taper: "), 1) << results.text;
  EXPECT_THAT(results.text, HasSubstr("connected by TCP alone"));
  EXPECT_FALSE(fs::exists(folder_ / "run")) << "half a run was left behind";
}

}  // namespace
}  // namespace taper
