// CUDA graphs on the device sim: what one keeps of the memory it was captured with, derived copies under it,
// and steps that are launched instead of issued.

#include <cuda_runtime.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "layers/resnet.h"
#include "recipes/data/loader.h"
#include "recipes/shard_graphs.h"
#include "runtime/cuda/stream.h"
#include "runtime/simt/simt.h"
#include "tests/network_values.h"
#include "tests/rank_threads.h"

namespace taper {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

std::string failure_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Failure& failure) {
    return failure.what();
  }
  return "(no failure)";
}

int64_t free_memory() {
  size_t free = 0, total = 0;
  EXPECT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  return static_cast<int64_t>(free);
}

constexpr int64_t kCount = 1000;

std::vector<float> numbers(float from) {
  std::vector<float> result(kCount);
  std::iota(result.begin(), result.end(), from);
  return result;
}

Tensor filled(Stream& stream, int64_t count, float value) {
  return Tensor::from<float>(stream, {count}, std::vector<float>(static_cast<size_t>(count), value));
}

// Under queues that run as late as they may.
class CudaGraphs : public ::testing::Test {
 protected:
  CudaGraphs() { simt::set_schedule({.streams = simt::Schedule::Streams::kLate, .seed = 5}); }
  ~CudaGraphs() override {
    simt::set_schedule({});
    simt::set_memory_limit(int64_t{16} << 30);
  }
  // A graph that copies `from` to `to` by way of memory that it releases again, twice.
  std::unique_ptr<Graph> copying(const Tensor& from, Tensor& to) {
    return stream_.capture([&] {
      to = Tensor(stream_, DType::f32, {kCount});
      for (int i = 0; i < 2; ++i) {
        Tensor one(stream_, DType::f32, {kCount}), two(stream_, DType::f32, {kCount});
        stream_.copy(one.data(), (i == 0 ? from : to).data(), one.bytes());
        stream_.copy(two.data(), one.data(), one.bytes());
        stream_.copy(to.data(), two.data(), one.bytes());
      }
    });
  }

  CudaStream stream_{0};
};

TEST_F(CudaGraphs, AGraphWorksOnWhatIsThereWhenItIsLaunched) {
  Tensor from = filled(stream_, kCount, 0), to;
  const int64_t launches = simt::graph_launches();
  std::unique_ptr<Graph> graph = copying(from, to);
  EXPECT_EQ(simt::graph_launches(), launches);
  for (float first : {1.0F, 5000.0F}) {
    stream_.upload(from.data(), numbers(first).data(), from.bytes());
    graph->launch();
    EXPECT_EQ(to.host<float>(stream_), numbers(first));
  }
  EXPECT_EQ(simt::graph_launches(), launches + 2);
}

TEST_F(CudaGraphs, WhatAGraphReleasesIsNobodyElsesWhileItLives) {
  const int64_t free = free_memory();
  {
    Tensor from = filled(stream_, kCount, 3), to;
    std::unique_ptr<Graph> graph = copying(from, to);
    std::vector<Tensor> others;
    for (int i = 0; i < 8; ++i) others.push_back(filled(stream_, kCount, 7));
    graph->launch();
    for (const Tensor& other : others) EXPECT_THAT(other.host<float>(stream_), Each(7));
    EXPECT_THAT(to.host<float>(stream_), Each(3));
    graph.reset();  // what was kept lives on
    EXPECT_THAT(to.host<float>(stream_), Each(3));
  }
  stream_.allocator()->trim();
  EXPECT_EQ(free_memory(), free);
}

TEST_F(CudaGraphs, AGraphsScratchMemoryIsItsOwn) {
  const Tensor from = filled(stream_, kCount, 3);
  for (int64_t before : {int64_t{64}, 2 * from.bytes()}) {  // less than the graph needs, and more
    stream_.scratch(before);
    Tensor to;
    std::unique_ptr<Graph> graph = stream_.capture([&] {
      to = Tensor(stream_, DType::f32, {kCount});
      stream_.scratch(kCount);
      void* scratch = stream_.scratch(from.bytes());
      stream_.copy(scratch, from.data(), from.bytes());
      stream_.copy(to.data(), scratch, from.bytes());
    });
    for (int64_t bytes : {from.bytes(), 4 * from.bytes()}) {  // of the stream's next op
      void* scratch = stream_.scratch(bytes);
      stream_.zero(scratch, bytes);
      graph->launch();
      EXPECT_THAT(to.host<float>(stream_), Each(3));
      Tensor held(stream_, DType::f32, {kCount});
      stream_.copy(held.data(), scratch, held.bytes());
      EXPECT_THAT(held.host<float>(stream_), Each(0));
    }
  }
}

// A block that recorded work writes to is no spare memory, even if the graph has released it.
TEST_F(CudaGraphs, MemoryOfAGraphIsNotGivenBackForMore) {
  simt::set_memory_limit(1 << 20);
  auto capture = [&](int64_t second) {
    return stream_.capture([&, second] {
      Tensor(stream_, DType::u8, {600 << 10});
      Tensor(stream_, DType::u8, {second});
    });
  };
  EXPECT_THAT(failure_of([&] { capture(800 << 10); }), HasSubstr("bytes left"));
  Tensor cached(stream_, DType::u8, {700 << 10});
  cached = {};
  EXPECT_NE(capture(300 << 10), nullptr) << "what the stream itself had in its cache is";
}

TEST_F(CudaGraphs, WhatWouldWaitIsRefusedAndTheStreamWorksOn) {
  Tensor values = filled(stream_, kCount, 3);
  std::vector<float> host(kCount, 1);
  auto captured = [&](const std::function<void()>& work) {
    return failure_of([&] { stream_.capture(work); });
  };
  EXPECT_THAT(captured([&] { stream_.upload(values.data(), host.data(), values.bytes()); }),
              HasSubstr("upload while a graph is captured"));
  EXPECT_THAT(captured([&] { stream_.download(host.data(), values.data(), values.bytes()); }),
              HasSubstr("download while a graph is captured"));
  EXPECT_THAT(captured([&] { stream_.synchronize(); }), HasSubstr("synchronize while a graph is captured"));
  EXPECT_THAT(captured([&] { stream_.capture([] {}); }), HasSubstr("capture while a graph is captured"));
  EXPECT_THAT(failure_of([&] { stream_.keep(nullptr); }), HasSubstr("nothing is being captured"));
  EXPECT_FALSE(stream_.capturing());
  EXPECT_THAT(values.host<float>(stream_), Each(3)) << "nothing of a failed capture was done";
  HostStream of_host;
  EXPECT_THAT(failure_of([&] { of_host.capture([] {}); }), HasSubstr("cannot be captured"));
}

TEST_F(CudaGraphs, ADerivedCopyStaysWhereAGraphReadsIt) {
  ParameterStore store;
  Parameter& parameter = store.add("p", {1}, Role::bias);
  store.allocate(stream_, DType::f32);
  float value = 1;
  auto copy = [&] {
    return store.derived(stream_, "copy", {&parameter},
                         [&](Stream& stream) { return filled(stream, kCount, value); });
  };
  Tensor to;
  auto capture = [&] {
    return stream_.capture([&] {
      to = Tensor(stream_, DType::f32, {kCount});
      stream_.copy(to.data(), copy().data(), to.bytes());
    });
  };
  EXPECT_THAT(failure_of([&] { capture(); }),
              HasSubstr("copy has to be made anew while a graph is captured"));
  const void* place = copy().data();
  std::unique_ptr<Graph> graph = capture();
  std::vector<Tensor> others;
  for (int i = 0; i < 3; ++i) {
    value = static_cast<float>(i + 2);
    parameter.changed();
    // Also where nobody but the graph has asked for it.
    EXPECT_EQ(store.stale(), std::vector<std::string>{"copy"});
    i < 2 ? store.remake(stream_, "copy") : static_cast<void>(copy());
    others.push_back(filled(stream_, kCount, -1));  // which would take a block that was let go of
    graph->launch();
    EXPECT_THAT(to.host<float>(stream_), Each(value));
    EXPECT_EQ(copy().data(), place);
  }
  graph.reset();
  parameter.changed();
  EXPECT_EQ(store.stale(), std::vector<std::string>{"copy"});
  parameter.changed();
  EXPECT_EQ(store.stale(), std::vector<std::string>{}) << "nobody asks for it";
}

// A small residual network, trained on two shapes of shards: of 11 images in four parts, one has 2 and
// three 3.
class GraphSteps : public CudaGraphs {
 protected:
  struct Result {
    std::vector<std::vector<double>> values;
    std::vector<double> outcomes;
    int64_t launches = 0;
    bool operator==(const Result&) const = default;
  };
  static constexpr int64_t kSize = 6, kClasses = 3, kShards = 4, kSteps = 4;

  static ImageBatch batch(int64_t number) {
    ImageBatch result;
    result.image_size = kSize;
    result.channels = 1;
    result.count = 11;
    for (double v : normals(11 * kSize * kSize, std::to_string(number)))
      result.images.push_back(static_cast<float>(v));
    for (int64_t i = 0; i < 11; ++i)
      result.labels.push_back(static_cast<int32_t>((i * i + number) % kClasses));
    return result;
  }

  // After each step an image is evaluated with the weights' average in their place.
  Result train(bool graphs, int workers, DType type = DType::f32, Communicator& ranks = only_rank()) {
    Team team(*backend_, workers, 1);
    std::unique_ptr<Network> network = make_resnet({.style = ResNetSpec::Style::cifar,
                                                    .block = ResNetSpec::BlockKind::basic,
                                                    .depths = {1, 1},
                                                    .width = 4,
                                                    .channels = 1,
                                                    .classes = kClasses});
    ParameterStore& store = network->store();
    team.run_one([&](Stream& stream) {
      store.allocate(stream, accumulator(type));
      randomize(stream, store);
    });
    store.find("layer1.0.conv2.weight")->trainable = false;
    Optimizer optimizer(team, store, {.weight_decay = 1e-3, .clip_norm = 1, .ema_decay = 0.9});
    Objective objective = [&](Tape& tape, const ShardInput& input) {
      return label_loss(tape, network->forward(tape, input.input), input, 0.1);
    };
    ShardGraphs captured;
    Result result;
    const int64_t before = simt::graph_launches();
    int64_t free = 0;
    for (int64_t step = 0; step < kSteps; ++step) {
      StepContext context{team, *network, type, kShards, ranks};
      if (graphs) context.graphs = &captured;
      StepOutcome outcome = train_step(context, batch(step), objective, optimizer, 0.1);
      EXPECT_EQ(outcome.non_finite, "");
      result.outcomes.insert(result.outcomes.end(), {outcome.loss, outcome.gradient_norm});
      optimizer.swap_average(team);
      team.run_one([&](Stream& stream) {
        Tape tape(*backend_, stream, type);
        network->forward(tape, batch(step).upload(tape, 0, 1).input);
      });
      optimizer.swap_average(team);
      if (step == 1) free = free_memory();
    }
    // Of one worker, which meets all shapes in the first step.
    if (graphs && workers == 1 && ranks.ranks() == 1) {
      EXPECT_EQ(free_memory(), free) << "memory grows";
    }
    result.launches = simt::graph_launches() - before;
    team.run_one([&](Stream& stream) {
      for (const Parameter& p : store.all()) result.values.push_back(host_values(stream, p));
    });
    return result;
  }
  std::unique_ptr<Backend> backend_ = make_backend("sim");
};

TEST_F(GraphSteps, GiveTheBitsOfStepsWithoutGraphs) {
  for (DType type : {DType::f32, DType::bf16}) {
    Result expected = train(false, 1, type), one = train(true, 1, type), two = train(true, 2, type);
    EXPECT_EQ(expected.launches, 0);
    EXPECT_EQ(one.launches, kSteps * kShards - 2) << "all but the first shard of each of two shapes";
    EXPECT_GE(two.launches, kSteps * kShards - 4);
    one.launches = two.launches = 0;
    EXPECT_TRUE(one == expected) << name(type);
    EXPECT_TRUE(two == expected) << name(type) << ", two workers";
  }
}

TEST_F(GraphSteps, GiveTheSameBitsOnTwoRanks) {
  const Result expected = train(false, 1);
  on_ranks(2, [&](ThreadRank& self) {
    const Result result = train(true, 1, DType::f32, self);
    EXPECT_TRUE(result.values == expected.values && result.outcomes == expected.outcomes) << self.rank();
    EXPECT_GT(result.launches, 0);
  });
}

TEST_F(GraphSteps, TextIsRefused) {
  ShardGraphs graphs;
  Tape tape(*backend_, stream_, DType::f32);
  ShardSums sums;
  const ShardInput scores{.input = {}, .labels = {}, .count = 1, .scores = filled(stream_, 1, 0)};
  EXPECT_THAT(failure_of([&] { graphs.run(tape, sums, scores, {}); }), HasSubstr("graphs are for images"));
}

}  // namespace
}  // namespace taper
