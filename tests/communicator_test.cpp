// Ranks as threads: what the collectives make of exchange(), in which order sums over ranks are added, which
// rank is blamed, and what the environment says.

#include "runtime/communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <thread>

#include "autograd/collectives.h"
#include "runtime/error.h"
#include "runtime/philox.h"
#include "runtime/rank_watch.h"
#include "runtime/tcp/communicator.h"
#include "tests/rank_threads.h"

namespace taper {
namespace {

using testing::HasSubstr;

TEST(Communicator, GathersWhatEachGivesInTheOrderOfRanks) {
  for (int64_t ranks : {1, 2, 4, 8})
    on_ranks(ranks, [&](ThreadRank& self) {
      std::vector<std::string> expected;
      for (int64_t r = 0; r < ranks; ++r)
        expected.emplace_back(static_cast<size_t>(3 * r), static_cast<char>('a' + r));
      EXPECT_EQ(self.all_gather(expected[static_cast<size_t>(self.rank())]), expected);
      EXPECT_EQ(self.broadcast(self.first() ? "from the first" : "x"), "from the first");
      for (int64_t one = 0; one < ranks; ++one) EXPECT_TRUE(self.any(self.rank() == one));
      EXPECT_FALSE(self.any(false));
      self.barrier();
    });
}

// Values whose sum depends on the order of every single addition.
std::vector<float> shard_values(int64_t shard, int64_t size) {
  Draws draws(11, static_cast<uint64_t>(shard), 0);
  std::vector<float> values(static_cast<size_t>(size));
  for (float& v : values) v = (2 * draws.uniform() - 1) * std::exp2(static_cast<float>(draws.below(24)));
  return values;
}

class Collectives : public testing::TestWithParam<DType> {
 protected:
  // The sum of all shards as `self` holds it in the end, as bytes, and its reports. The gradients go in so
  // many buckets, of unlike sizes, which shards hand in as they come to them: rank 1 and the last shards
  // late.
  std::pair<std::vector<std::byte>, std::map<int64_t, int64_t>> sum(ThreadRank& self, int64_t shards,
                                                                    int64_t size, int64_t count) {
    Team team(*backend_, 2, 1);
    Range own = shards_of_rank(self, shards);
    std::vector<Range> buckets;
    for (int64_t end = size; end > 0 && count > 0; --count) {
      buckets.push_back({count == 1 ? 0 : end / 3, end});
      end = buckets.back().begin;
    }
    BucketSums exchange(self, team, buckets);
    ShardTree tree(*backend_, DType::f32, own.size(), size, 5, buckets,
                   [&](int64_t bucket, const Tensor& gradients) { exchange.ready(bucket, gradients); });
    team.run(own.end - own.begin, [&](Stream& stream, int64_t i) {
      int64_t shard = own.begin + i;
      ShardSums sums = tree.make(stream);
      std::vector<float> values = shard_values(shard, size + 5);
      stream.upload(sums.gradients.data(), values.data(), sums.gradients.bytes());
      stream.upload(sums.statistics.data(), values.data() + size, sums.statistics.bytes());
      sums.reports[shard % 3] = 1;
      for (int64_t bucket = 0; bucket < std::ssize(buckets); ++bucket) {
        if (self.rank() == 1 || i % 4 == 3) std::this_thread::sleep_for(std::chrono::microseconds(200));
        tree.finish_bucket(stream, i, sums, bucket);
      }
      tree.finish(stream, i, std::move(sums));
    });
    ShardSums sums = tree.total(team);
    CommunicationThread& thread = team.communication();
    int64_t rest = thread.post([&](Stream& stream) { all_reduce_statistics(self, *backend_, stream, sums); });
    for (int64_t bucket = 0; bucket < std::ssize(buckets); ++bucket) exchange.wait(bucket);
    thread.wait(rest);
    std::vector<std::byte> bytes(static_cast<size_t>((size + 5) * 4));
    team.run_one([&](Stream& stream) {
      stream.download(bytes.data(), sums.gradients.data(), sums.gradients.bytes());
      stream.download(bytes.data() + size * 4, sums.statistics.data(), sums.statistics.bytes());
    });
    return {bytes, sums.reports};
  }
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
};

TEST_F(Collectives, AnyNumberOfRanksContinuesTheTreeOfShards) {
  for (int64_t size : {1, 7, 1000, 300'001}) {
    auto expected = std::pair<std::vector<std::byte>, std::map<int64_t, int64_t>>();
    on_ranks(1, [&](ThreadRank& self) { expected = sum(self, 16, size, 0); });
    for (auto [ranks, buckets] : {std::pair<int64_t, int64_t>{1, 3}, {2, 5}, {4, 1}, {8, 2}, {16, 4}})
      on_ranks(ranks, [&, ranks = ranks, buckets = buckets](ThreadRank& self) {
        EXPECT_TRUE(sum(self, 16, size, buckets) == expected)
            << size << " values on " << ranks << " ranks in " << buckets << " buckets";
      });
  }
}

// Of a task that fails, whoever waits for it or for a later one hears; none comes after it.
TEST_F(Collectives, AFailureOfTheCommunicationThreadComesOut) {
  Team team(*backend_, 1, 1);
  CommunicationThread& thread = team.communication();
  int64_t good = thread.post([](Stream&) {});
  int64_t bad = thread.post([](Stream&) { throw Failure("the cable is out"); });
  bool ran = false;
  int64_t after = thread.post([&](Stream&) { ran = true; });
  thread.wait(good);
  for (int64_t task : {bad, after}) EXPECT_THROW(thread.wait(task), Failure);
  EXPECT_FALSE(ran);
}

// A vector of one type, reduced and gathered: each rank's part of the sum is the whole one's, and as much is
// sent as is documented.
TEST_P(Collectives, ScatteredPartsAreThoseOfTheSum) {
  constexpr int64_t kSize = 4096, kRanks = 8;
  DType type = GetParam();
  on_ranks(kRanks, [&](ThreadRank& self) {
    Team team(*backend_, 1, 1);
    Tensor values;
    auto fill = [&](Stream& stream) {
      Tensor f32 = Tensor::from<float>(stream, {kSize}, shard_values(self.rank(), kSize));
      values = Tensor(stream, type, {kSize});
      backend_->cast(stream, kSize, DType::f32, f32.data(), type, values.data());
    };
    auto bytes = [&](const Tensor& tensor) {
      std::vector<std::byte> result(static_cast<size_t>(tensor.bytes()));
      team.run_one([&](Stream& stream) { stream.download(result.data(), tensor.data(), tensor.bytes()); });
      return result;
    };
    team.run_one(fill);
    Range own;
    team.run_one([&](Stream& stream) { own = reduce_scatter(self, *backend_, stream, values, {0, kSize}); });
    EXPECT_EQ(own.end - own.begin, kSize / kRanks);
    EXPECT_EQ(self.sent, static_cast<size_t>(values.bytes()) * (kRanks - 1) / kRanks);
    EXPECT_EQ(self.to_neighbour, static_cast<size_t>(values.bytes()) / 2);
    auto part = bytes(values.slice(own.begin, own.end - own.begin));
    team.run_one([&](Stream& stream) { all_gather(self, stream, values, {0, kSize}); });
    EXPECT_EQ(self.sent, 2 * static_cast<size_t>(values.bytes()) * (kRanks - 1) / kRanks);
    Tensor whole = values;
    EXPECT_EQ(bytes(whole.slice(own.begin, own.end - own.begin)), part);
    team.run_one(fill);
    team.run_one([&](Stream& stream) { all_reduce(self, *backend_, stream, values); });
    EXPECT_EQ(bytes(values), bytes(whole));
    // All ranks have the same.
    auto own_bytes = bytes(values);
    std::string text(reinterpret_cast<const char*>(own_bytes.data()), own_bytes.size());
    for (const std::string& theirs : self.all_gather(text)) EXPECT_TRUE(theirs == text);
  });
}

INSTANTIATE_TEST_SUITE_P(Types, Collectives, testing::Values(DType::f32, DType::bf16),
                         [](const auto& info) { return std::string(name(info.param)); });

Environment environment(std::map<std::string, std::string> values) {
  return [values](const std::string& name) -> std::optional<std::string> {
    auto found = values.find(name);
    return found == values.end() ? std::nullopt : std::optional(found->second);
  };
}

TEST(RankPlace, IsTheFirstThatTheEnvironmentTellsOf) {
  struct Case {
    std::map<std::string, std::string> values;
    RankPlace expected;
  };
  for (const Case& c : {
           Case{{}, {}},
           Case{{{"OMPI_COMM_WORLD_RANK", "5"},
                 {"OMPI_COMM_WORLD_SIZE", "8"},
                 {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                 {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                 {"SLURM_PROCID", "0"},  // of Open MPI's daemon
                 {"SLURM_STEP_NUM_TASKS", "2"}},
                {5, 8, 1, 4, "Open MPI"}},
           Case{{{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}},
                {1, 2, 1, 2, "PMI"}},
           Case{{{"SLURM_PROCID", "6"},
                 {"SLURM_STEP_NUM_TASKS", "8"},
                 {"SLURM_LOCALID", "2"},
                 {"SLURM_STEP_TASKS_PER_NODE", "4(x2)"}},
                {6, 8, 2, 4, "Slurm"}},
           Case{{{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}}, {}},  // a batch script
           Case{{{"RANK", "3"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "1"}},
                {3, 4, 1, 2, "RANK and WORLD_SIZE"}},
           Case{{{"OMPI_COMM_WORLD_RANK", "1"},
                 {"OMPI_COMM_WORLD_SIZE", "2"},
                 {"RANK", "1"},
                 {"WORLD_SIZE", "2"}},
                {1, 2, 0, 1, "Open MPI"}},
       }) {
    RankPlace place = find_rank(environment(c.values));
    EXPECT_EQ(place.rank, c.expected.rank);
    EXPECT_EQ(place.ranks, c.expected.ranks);
    EXPECT_EQ(place.local_rank, c.expected.local_rank);
    EXPECT_EQ(place.local_ranks, c.expected.local_ranks);
    EXPECT_EQ(place.starter, c.expected.starter);
  }
}

TEST(RankPlace, RefusesWhatCannotBe) {
  struct Case {
    std::map<std::string, std::string> values;
    std::string says;
  };
  for (const Case& c : {
           Case{{{"RANK", "4"}, {"WORLD_SIZE", "4"}}, "RANK=4 with WORLD_SIZE=4"},
           Case{{{"RANK", "0"}}, "RANK without WORLD_SIZE"},
           Case{{{"WORLD_SIZE", "2"}}, "WORLD_SIZE without RANK"},
           Case{{{"RANK", "one"}, {"WORLD_SIZE", "4"}}, "RANK is \"one\""},
           Case{{{"RANK", "-1"}, {"WORLD_SIZE", "4"}}, "RANK is \"-1\""},
           Case{{{"RANK", "1"}, {"WORLD_SIZE", "99999999999999999999"}}, "WORLD_SIZE is"},
           Case{{{"RANK", "1"}, {"WORLD_SIZE", "0"}}, "RANK=1 with WORLD_SIZE=0"},
           Case{{{"RANK", "1"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "2"}}, "LOCAL_RANK=2"},
           Case{{{"OMPI_COMM_WORLD_RANK", "1"}}, "OMPI_COMM_WORLD_RANK without OMPI_COMM_WORLD_SIZE"},
           Case{{{"OMPI_COMM_WORLD_RANK", "1"},
                 {"OMPI_COMM_WORLD_SIZE", "2"},
                 {"RANK", "0"},
                 {"WORLD_SIZE", "2"}},
                "rank 1 of 2 by Open MPI, but rank 0 of 2 by RANK and WORLD_SIZE"},
       }) {
    try {
      find_rank(environment(c.values));
      ADD_FAILURE() << "accepted: " << c.says;
    } catch (const UserError& error) {
      EXPECT_THAT(error.what(), HasSubstr(c.says));
    }
  }
}

TEST(RankPlace, WithoutALauncherThereIsOneProcess) {
  EXPECT_EQ(make_communicator(environment({}))->ranks(), 1);
  EXPECT_EQ(make_communicator(environment({{"RANK", "0"}, {"WORLD_SIZE", "1"}}))->ranks(), 1);
}

TEST(MeetingPoint, IsBesideTorchrunsOwnPort) {
  std::map<std::string, std::string> values = {{"MASTER_ADDR", "node1"}, {"MASTER_PORT", "29500"}};
  EXPECT_EQ(find_meeting_point(environment(values)).host, "node1");
  EXPECT_EQ(find_meeting_point(environment(values)).port, 29500);
  values["TORCHELASTIC_USE_AGENT_STORE"] = "False";
  EXPECT_EQ(find_meeting_point(environment(values)).port, 29500);
  values["TORCHELASTIC_USE_AGENT_STORE"] = "True";
  EXPECT_EQ(find_meeting_point(environment(values)).port, 29501);
  for (const char* port : {"", "0", "http", "65535"}) {
    values["MASTER_PORT"] = port;
    EXPECT_THROW(find_meeting_point(environment(values)), UserError) << port;
  }
}

TEST(RankWatch, BlamesTheRankThatHoldsTheOthersUp) {
  auto rank = [](const char* name, double heard, int64_t waits_for = -1, double since = 0) {
    return RankStatus{name, heard, waits_for, since};
  };
  auto lost = [](const std::vector<RankStatus>& ranks) {
    return lost_rank(ranks, "stage wide, step 5", 100, 60);
  };
  EXPECT_EQ(lost({rank("rank 0", 99), rank("rank 1", 41)}), "");
  EXPECT_THAT(
      lost({rank("rank 0", 99), rank("rank 1", 39)}),
      testing::AllOf(HasSubstr("rank 1 has not been heard of for 61 s"), HasSubstr("stage wide, step 5")));
  EXPECT_EQ(lost({rank("rank 0", 99, 1, 41), rank("rank 1", 99)}), "");
  EXPECT_THAT(lost({rank("rank 0", 99, 1, 39), rank("rank 1", 99)}),
              HasSubstr("rank 1 has kept rank 0 waiting"));
  // Rank 2 waits for rank 0 longest, but rank 0 waits for rank 1 itself.
  EXPECT_THAT(lost({rank("rank 0", 99, 1, 50), rank("rank 1", 98), rank("rank 2", 99, 0, 20)}),
              HasSubstr("rank 1 has kept rank 2 waiting for 80 s"));
  EXPECT_THAT(lost({rank("rank 0", 99, 1, 30), rank("rank 1", 45)}),
              HasSubstr("rank 1 has not been heard of for 55 s"));
  // In a sum by a library each waits for all others: for the one that has not come, or whom that waits for.
  EXPECT_THAT(
      lost({rank("rank 0", 99, kEveryRank, 30), rank("rank 1", 98, kEveryRank, 40), rank("rank 2", 99)}),
      HasSubstr("rank 2 has kept rank 0 waiting for 70 s"));
  EXPECT_THAT(lost({rank("rank 0", 99, kEveryRank, 30), rank("rank 1", 98, 2, 40), rank("rank 2", 99)}),
              HasSubstr("rank 2 has kept rank 0 waiting for 70 s"));
  EXPECT_EQ(lost({rank("rank 0", 99, kEveryRank, 41), rank("rank 1", 98)}), "");
}

}  // namespace
}  // namespace taper
