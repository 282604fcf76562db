// An optimizer whose state is divided among ranks, against the one that has it whole.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "layers/optimizer.h"
#include "runtime/philox.h"
#include "tests/rank_threads.h"

namespace taper {
namespace {

using Rule = OptimizerOptions::Rule;

TEST(Division, CutsAtTheBorderNearestToTheMiddle) {
  EXPECT_EQ(Division().cut({10, 20}), 15);
  const Division division({0, 10, 60, 70, 100});
  EXPECT_EQ(division.cut({0, 100}), 60);
  EXPECT_EQ(division.cut({0, 60}), 10);
  EXPECT_EQ(division.cut({10, 60}), 10) << "nothing lies within, so one rank gets all";
  EXPECT_EQ(division.cut({100, 164}), 100);
  EXPECT_EQ(Division({0, 90}).cut({0, 100}), 90);
}

TEST(Division, PartsAreTheWhole) {
  const Division division({0, 16, 48, 1000, 1016, 1500, 2000});
  for (int64_t ranks : {1, 2, 4, 8, 16}) {
    std::map<int64_t, int64_t> parts;  // by their beginnings
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const Range part = division.part({0, 2100}, rank, ranks);
      if (part.size() > 0) {
        EXPECT_TRUE(parts.emplace(part.begin, part.end).second);
      }
    }
    int64_t end = 0;
    for (const auto& [begin, next] : parts) {
      EXPECT_EQ(begin, end);
      end = next;
    }
    EXPECT_EQ(end, 2100) << ranks;
  }
}

// Tensors of which some are larger than what a piece may be, and one that is not trained.
void fill(ParameterStore& store, Stream& stream) {
  for (int64_t size : {200'000, 33, 70'000, 5, 1000, 65'536, 65'537}) {
    Parameter& p = store.add(std::to_string(size), {size}, size < 100 ? Role::bias : Role::matrix);
    p.trainable = size != 1000;
    p.rate = size == 33 ? 0.5 : 1;
  }
  store.allocate(stream, DType::f32);
}

std::vector<float> draw(uint64_t what, int64_t size) {
  Draws draws(17, what, 0);
  std::vector<float> values(static_cast<size_t>(size));
  for (float& v : values) v = 2 * draws.uniform() - 1;
  return values;
}

Tensor upload(Team& team, const std::vector<float>& values) {
  Tensor result;
  team.run_one([&](Stream& stream) {
    result = Tensor::from<float>(stream, {std::ssize(values)}, std::span<const float>(values));
  });
  return result;
}

using State = std::map<std::string, std::vector<float>>;

State state_of(Team& team, const ParameterStore& store, const Optimizer& optimizer) {
  State state;
  auto add = [&](const std::string& name, const Tensor& tensor) {
    team.run_one([&](Stream& stream) { state[name] = tensor.host<float>(stream); });
  };
  optimizer.save(team, add);
  add("values", store.values());
  return state;
}

class ShardedOptimizer : public testing::TestWithParam<Rule> {
 protected:
  OptimizerOptions options() const {
    return {.rule = GetParam(), .weight_decay = 0.1, .clip_norm = 1, .ema_decay = 0.5};
  }
  // Steps [begin, end) on a rank's own network, from a state. Of the gradients' sum it has its own parts
  // only.
  State train(Communicator& ranks, bool divided, int64_t begin, int64_t end, const State& from) {
    Team team(*backend_, 2, 1);
    ParameterStore store;
    team.run_one([&](Stream& stream) {
      fill(store, stream);
      const std::vector<float> values = from.empty() ? draw(0, store.value_size()) : from.at("values");
      Tensor into = store.values();
      stream.upload(into.data(), values.data(), into.bytes());
    });
    Optimizer optimizer(team, store, options(), divided ? &ranks : nullptr);
    EXPECT_EQ(optimizer.division() != nullptr, divided && ranks.ranks() > 1);
    if (!from.empty())
      optimizer.restore(team, begin, [&](const std::string& name, const Tensor& like) {
        EXPECT_EQ(std::ssize(from.at(name)), like.size());
        return std::as_bytes(std::span(from.at(name)));
      });
    std::vector<Range> parts;
    if (optimizer.division())
      for (const Range& bucket : gradient_buckets(store))
        parts.push_back(optimizer.division()->part(bucket, ranks.rank(), ranks.ranks()));
    for (int64_t step = begin; step < end; ++step) {
      std::vector<float> values = draw(static_cast<uint64_t>(step) + 1, store.value_size());
      if (optimizer.division()) {
        std::vector<float> own(values.size(), std::numeric_limits<float>::quiet_NaN());
        for (const Range& part : parts)
          std::copy(values.begin() + part.begin, values.begin() + part.end, own.begin() + part.begin);
        values = std::move(own);
      }
      Tensor gradients = upload(team, values);
      std::vector<double> squares;
      for (const Range& part : parts) optimizer.measure(team, gradients, part, squares);
      Optimizer::Outcome outcome = optimizer.step(team, gradients, 4, 0.1, std::move(squares));
      EXPECT_EQ(outcome.non_finite, "");
      EXPECT_GT(outcome.gradient_norm, 1) << "so that it is clipped";
      optimizer.average(team);
    }
    return state_of(team, store, optimizer);
  }
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
};

TEST_P(ShardedOptimizer, GivesTheSameBitsOnAnyNumberOfRanks) {
  State middle, end;
  on_ranks(1, [&](ThreadRank& self) {
    middle = train(self, false, 0, 2, {});
    end = train(self, false, 0, 4, {});
    EXPECT_TRUE(train(self, true, 0, 4, {}) == end) << "of one rank nothing is divided";
  });
  EXPECT_FALSE(middle == end);
  for (int64_t ranks : {2, 8})
    on_ranks(ranks, [&](ThreadRank& self) {
      EXPECT_TRUE(train(self, true, 0, 2, {}) == middle) << ranks;
      EXPECT_TRUE(train(self, true, 2, 4, middle) == end) << ranks << ", from the whole state";
    });
}

TEST_P(ShardedOptimizer, NamesWhatIsNotFiniteOnEveryRankAndChangesNothing) {
  on_ranks(4, [&](ThreadRank& self) {
    Team team(*backend_, 1, 1);
    ParameterStore store;
    team.run_one([&](Stream& stream) { fill(store, stream); });
    Optimizer optimizer(team, store, options(), &self);
    const State before = state_of(team, store, optimizer);
    std::vector<float> values(static_cast<size_t>(store.value_size()), 1);
    values[static_cast<size_t>(store.find("70000")->offset) + 69'000] = INFINITY;
    EXPECT_EQ(optimizer.step(team, upload(team, values), 1, 0.1).non_finite, "70000");
    EXPECT_EQ(optimizer.steps(), 0);
    EXPECT_TRUE(state_of(team, store, optimizer) == before);
  });
}

// What it is for: no rank holds much more than its share. A tensor of half of all is not cut for lamb.
TEST_P(ShardedOptimizer, TakesItsShareOfTheMemory) {
  auto held = [&](Communicator& self) {
    Team team(*backend_, 1, 1);
    ParameterStore store;
    team.run_one([&](Stream& stream) { fill(store, stream); });
    const int64_t before = team.memory().in_use;
    OptimizerOptions without_average = options();
    without_average.ema_decay = 0;
    Optimizer optimizer(team, store, without_average, &self);
    return static_cast<double>(team.memory().in_use - before);
  };
  std::mutex mutex;
  double whole = 0, largest = 0;
  on_ranks(1, [&](ThreadRank& self) { whole = held(self); });
  on_ranks(2, [&](ThreadRank& self) {
    const double own = held(self);
    std::lock_guard lock(mutex);
    largest = std::max(largest, own);
  });
  EXPECT_LE(largest, (GetParam() == Rule::lamb ? 0.7 : 0.6) * whole);
}

INSTANTIATE_TEST_SUITE_P(
    Rules, ShardedOptimizer, testing::Values(Rule::sgd, Rule::adamw, Rule::lamb), [](const auto& info) {
      return std::string(info.param == Rule::sgd ? "sgd" : info.param == Rule::adamw ? "adamw" : "lamb");
    });

}  // namespace
}  // namespace taper
