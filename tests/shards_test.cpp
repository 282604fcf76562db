// Workers and shards: the same bits whoever computes what, and errors that come out of a task.

#include "autograd/shards.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "layers/resnet.h"
#include "layers/weights.h"
#include "runtime/philox.h"

namespace taper {
namespace {

constexpr int64_t kImages = 32, kSize = 6;

std::vector<float> draw(const char* name, int64_t size) {
  Draws draws(hash(name), 0, 0);
  std::vector<float> values(static_cast<size_t>(size));
  for (float& v : values) v = 2 * draws.uniform() - 1;
  return values;
}

// A small residual network with batch norm, and a batch of 32 images cut into shards.
class Shards : public testing::Test {
 protected:
  Shards() {
    ResNetSpec spec{
        .style = ResNetSpec::Style::cifar, .block = ResNetSpec::BlockKind::basic, .depths = {1, 1}};
    spec.width = 8;
    spec.classes = 10;
    network_ = make_resnet(spec);
    network_->store().allocate(stream_, DType::f32);
    initialize(*network_, stream_, 1, false);
    for (int32_t i = 0; i < kImages; ++i) labels_.push_back(i % 10);
  }

  void run_shard(Stream& stream, int64_t shard, int64_t shards, ShardSums& sums) {
    int64_t count = kImages / shards, size = kSize * kSize * 3;
    Tape tape(*backend_, stream, DType::f32, &sums);
    tape.training = true;
    Tensor images = Tensor::from<float>(
        stream, {count, kSize, kSize, 3},
        std::span(std::as_const(images_))
            .subspan(static_cast<size_t>(shard * count * size), static_cast<size_t>(count * size)));
    Tensor labels =
        Tensor::from<int32_t>(stream, {count},
                              std::span(std::as_const(labels_))
                                  .subspan(static_cast<size_t>(shard * count), static_cast<size_t>(count)));
    cross_entropy(tape, network_->forward(tape, tape.constant(images)), labels, 0);
    tape.backward();
  }
  ShardTree tree(int64_t shards) {
    const ParameterStore& store = network_->store();
    return ShardTree(*backend_, DType::f32, shards, store.value_size(), store.statistic_size());
  }
  // Gradients, then statistics.
  static std::vector<float> joined(Stream& stream, const ShardSums& sums) {
    std::vector<float> all = sums.gradients.host<float>(stream), more = sums.statistics.host<float>(stream);
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::vector<float> with_team(int workers, int64_t shards) {
    Team team(*backend_, workers, 1);
    ShardTree sum = tree(shards);
    team.run(shards, [&](Stream& stream, int64_t i) {
      ShardSums sums = sum.make(stream);
      run_shard(stream, i, shards, sums);
      sum.finish(stream, i, std::move(sums));
    });
    return joined(stream_, sum.total(team));
  }
  // What the tree is documented to do, one shard after the other.
  std::vector<float> by_hand(int64_t begin, int64_t end, int64_t shards) {
    if (end - begin == 1) {
      std::unique_ptr<Stream> stream = backend_->make_stream(1);
      ShardSums sums = tree(shards).make(*stream);
      run_shard(*stream, begin, shards, sums);
      return joined(*stream, sums);
    }
    std::vector<float> left = by_hand(begin, (begin + end) / 2, shards),
                       right = by_hand((begin + end) / 2, end, shards);
    for (size_t i = 0; i < left.size(); ++i) left[i] += right[i];
    return left;
  }

  HostStream stream_;
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
  std::unique_ptr<Network> network_;
  std::vector<float> images_ = draw("images", kImages* kSize* kSize * 3);
  std::vector<int32_t> labels_;
};

TEST_F(Shards, SumToTheSameBitsWithAnyNumberOfWorkers) {
  for (int64_t shards : {1, 2, 4, 8, 16}) {
    std::vector<float> expected = by_hand(0, shards, shards);
    EXPECT_THAT(expected, testing::Contains(testing::Ne(0)));
    for (int workers : {1, 2, 3})
      EXPECT_EQ(with_team(workers, shards), expected) << shards << ", " << workers;
  }
}

// What backward says is final is so, and it says so long before its end: the last layers first.
TEST_F(Shards, BackwardTellsWhichGradientsAreFinal) {
  const ParameterStore& store = network_->store();
  network_->store().find("layer1.0.conv1.weight")->trainable = false;
  int64_t trained = 0;
  for (const Parameter& p : store.all()) trained += p.trainable ? 1 : 0;
  std::unique_ptr<Stream> stream = backend_->make_stream(1);
  ShardSums sums = tree(1).make(*stream);
  std::vector<std::pair<Tape::Pending, std::vector<float>>> calls;
  Tape tape(*backend_, *stream, DType::f32, &sums);
  tape.training = true;
  tape.on_progress = [&](const Tape::Pending& pending) {
    calls.emplace_back(pending, sums.gradients.host<float>(*stream));
  };
  Tensor images = Tensor::from<float>(*stream, {kImages, kSize, kSize, 3}, std::span(std::as_const(images_)));
  Tensor labels = Tensor::from<int32_t>(*stream, {kImages}, std::span(std::as_const(labels_)));
  cross_entropy(tape, network_->forward(tape, tape.constant(images)), labels, 0);
  tape.backward();
  std::vector<float> last = sums.gradients.host<float>(*stream);
  EXPECT_EQ(std::ssize(calls.front().first), trained);
  EXPECT_TRUE(calls.back().first.empty());
  EXPECT_GT(calls.size(), 5u) << "a call for each convolution with its norm, and for the linear layer";
  for (size_t i = 1; i < calls.size(); ++i) {
    const auto& [pending, gradients] = calls[i];
    EXPECT_LT(pending.size(), calls[i - 1].first.size());
    for (const Parameter& p : store.all()) {
      if (!p.trainable || pending.contains(p.offset)) continue;
      EXPECT_TRUE(
          std::equal(last.begin() + p.offset, last.begin() + p.offset + p.size, gradients.begin() + p.offset))
          << p.name << " after call " << i;
    }
  }
  EXPECT_FALSE(calls[1].first.contains(store.all().back().offset)) << "the linear layer is done first";
}

TEST_F(Shards, BucketsHoldWhatIsTrainedOnceFromTheLastTensorOn) {
  ParameterStore& store = network_->store();
  store.find("layer2.0.conv1.weight")->trainable = false;
  std::vector<Range> buckets = gradient_buckets(store);
  EXPECT_GT(buckets.size(), 4u);
  for (size_t i = 1; i < buckets.size(); ++i) EXPECT_LE(buckets[i].end, buckets[i - 1].begin);
  for (const Parameter& p : store.all()) {
    if (p.is_statistic()) continue;
    auto holds = [&](const Range& r) { return r.begin <= p.offset && p.offset + p.size <= r.end; };
    auto touches = [&](const Range& r) { return r.begin < p.offset + p.size && p.offset < r.end; };
    EXPECT_EQ(std::ranges::count_if(buckets, holds), p.trainable ? 1 : 0) << p.name;
    EXPECT_EQ(std::ranges::count_if(buckets, touches), p.trainable ? 1 : 0) << p.name;
  }
  for (Parameter& p : store.all()) p.trainable = false;
  EXPECT_TRUE(gradient_buckets(store).empty());
}

// Shards are part of what is computed (batch norm sees one at a time), workers are not.
TEST_F(Shards, AreNotTheMachinesBusiness) { EXPECT_NE(with_team(2, 2), with_team(2, 4)); }

TEST_F(Shards, FreeTheirBuffers) {
  Team team(*backend_, 1, 1);  // one: each worker's stream keeps scratch memory once it has worked
  int64_t before = 0;
  for (int round = 0; round < 3; ++round) {
    ShardTree sum = tree(8);
    team.run(8, [&](Stream& stream, int64_t i) {
      ShardSums sums = sum.make(stream);
      run_shard(stream, i, 8, sums);
      sum.finish(stream, i, std::move(sums));
    });
    sum.total(team);
    if (round == 0) before = team.memory().in_use;  // derived copies of filters, and scratch
    EXPECT_EQ(team.memory().in_use, before);
  }
}

TEST_F(Shards, MissingOnesAreAnError) {
  Team team(*backend_, 1, 1);
  ShardTree sum = tree(4);
  team.run(3, [&](Stream& stream, int64_t i) { sum.finish(stream, i, sum.make(stream)); });
  EXPECT_THROW(sum.total(team), Failure);
  EXPECT_THROW(tree(3), Failure);
}

TEST_F(Shards, RunsEachIndexOnceOnAStreamOfItsOwn) {
  Team team(*backend_, 3, 1);
  for (int64_t count : {0, 1, 2, 100}) {
    std::vector<std::atomic<int>> calls(static_cast<size_t>(count));
    std::mutex mutex;
    std::map<Stream*, std::set<std::thread::id>> threads;
    team.run(count, [&](Stream& stream, int64_t i) {
      ++calls[static_cast<size_t>(i)];
      std::lock_guard lock(mutex);
      threads[&stream].insert(std::this_thread::get_id());
    });
    for (const auto& n : calls) EXPECT_EQ(n, 1);
    for (const auto& [stream, users] : threads) EXPECT_EQ(users.size(), 1u);
  }
}

TEST_F(Shards, AnExceptionComesOutAndTheTeamGoesOn) {
  for (int workers : {1, 3}) {
    Team team(*backend_, workers, 1);
    std::atomic<int> calls = 0;
    try {
      team.run(10, [&](Stream&, int64_t i) {
        ++calls;
        if (i == 3 || i == 7) throw UserError("task {}", i);
      });
      ADD_FAILURE() << "nothing was thrown";
    } catch (const UserError& error) {
      EXPECT_STREQ(error.what(), "task 3");
    }
    EXPECT_EQ(calls, 10);
    calls = 0;
    team.run(4, [&](Stream&, int64_t) { ++calls; });
    EXPECT_EQ(calls, 4);
  }
}

TEST_F(Shards, DerivedCopiesAreMadeOncePerVersion) {
  Team team(*backend_, 3, 1);
  ParameterStore& store = network_->store();
  Parameter& weight = *store.find("fc.weight");
  std::atomic<int> made = 0;
  auto ask = [&](Stream& stream) {
    return store.derived(stream, "copy", {&weight}, [&](Stream& s) {
      ++made;
      Tensor copy(s, DType::f32, weight.shape);
      s.copy(copy.data(), weight.value().data(), copy.bytes());
      return copy;
    });
  };
  team.run(20, [&](Stream& stream, int64_t) { ask(stream); });
  EXPECT_EQ(made, 1);
  refresh(team, store);  // nothing has changed
  EXPECT_EQ(made, 1);
  set_values(stream_, weight, std::vector<double>(static_cast<size_t>(weight.size), 0.5));
  refresh(team, store);
  EXPECT_EQ(made, 1) << "not asked for since the last refresh, so dropped";
  EXPECT_THAT(ask(stream_).host<float>(stream_), testing::Each(0.5F));
  EXPECT_EQ(made, 2);
  weight.changed();
  refresh(team, store);
  EXPECT_EQ(made, 3) << "asked for since the last refresh, so made by it";
  ask(stream_);
  EXPECT_EQ(made, 3);
}

}  // namespace
}  // namespace taper
