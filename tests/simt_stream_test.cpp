// CUDA streams, their memory and launches on the device sim, with queues that run as late as they may and in
// random order: what is not ordered shows as a wrong value.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "autograd/parameter.h"
#include "autograd/shards.h"
#include "kernels/backend.h"
#include "runtime/cuda/launch.h"
#include "runtime/cuda/stream.h"
#include "runtime/simt/simt.h"
#include "runtime/tensor.h"

namespace taper {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

class CudaStreams : public ::testing::TestWithParam<uint64_t> {
 protected:
  CudaStreams() {
    simt::set_schedule({.order = simt::Schedule::Order::kRandom,
                        .copies = simt::Schedule::Copies::kLate,
                        .streams = simt::Schedule::Streams::kLate,
                        .seed = GetParam()});
  }
  ~CudaStreams() override { simt::set_schedule({}); }
};
INSTANTIATE_TEST_SUITE_P(Late, CudaStreams, ::testing::Values(1, 2, 3));

std::vector<float> numbers(size_t count, float from) {
  std::vector<float> result(count);
  std::iota(result.begin(), result.end(), from);
  return result;
}

Tensor upload(Stream& stream, const std::vector<float>& values) {
  return Tensor::from<float>(stream, {static_cast<int64_t>(values.size())}, values);
}

TEST_P(CudaStreams, UploadHasReadTheHostsMemoryOnReturn) {
  CudaStream stream(0);
  // More than both pinned buffers hold, and not a multiple of one.
  std::vector<float> values = numbers((size_t{9} << 20) / sizeof(float) + 5, 1);
  const std::vector<float> expected = values;
  Tensor on_device = upload(stream, values);
  std::fill(values.begin(), values.end(), -1.0F);
  EXPECT_TRUE(on_device.host<float>(stream) == expected);
}

TEST_P(CudaStreams, WorkOfOneStreamIsInOrder) {
  CudaStream stream(0);
  Tensor a = upload(stream, numbers(100, 1)), b(stream, DType::f32, {100});
  stream.copy(b.data(), a.data(), a.bytes());
  stream.zero(a.data(), a.bytes());
  stream.copy(static_cast<float*>(b.data()) + 50, a.data(), 50 * 4);
  std::vector<float> expected = numbers(100, 1);
  std::fill(expected.begin() + 50, expected.end(), 0.0F);
  EXPECT_EQ(b.host<float>(stream), expected);
}

TEST_P(CudaStreams, AReleasedBlockIsReusedBehindTheWorkThatReadsIt) {
  CudaStream stream(0);
  Tensor a = upload(stream, numbers(100, 1)), b(stream, DType::f32, {100});
  stream.copy(b.data(), a.data(), a.bytes());
  const void* block = a.data();
  a = Tensor();
  Tensor c = upload(stream, numbers(100, 500));
  EXPECT_EQ(c.data(), block);
  EXPECT_EQ(b.host<float>(stream), numbers(100, 1));
  EXPECT_EQ(c.host<float>(stream), numbers(100, 500));
}

// The sums cross from stream to stream as the tree merges them, and their blocks go back to the streams that
// made them. Small integers: any order of additions gives the same.
TEST_P(CudaStreams, AShardTreesSumsMayCrossStreams) {
  constexpr int64_t kShards = 16, kSize = 1000;
  std::unique_ptr<Backend> backend = make_backend("sim");
  Team team(*backend, 3, 1);
  for (int step = 0; step < 3; ++step) {
    ShardTree tree(*backend, DType::f32, kShards, kSize, 0);
    team.run(kShards, [&](Stream& stream, int64_t i) {
      ShardSums sums = tree.make(stream);
      const std::vector<float> gradient(kSize, static_cast<float>(i + 1));
      Tensor mine = upload(stream, gradient);
      backend->add(stream, kSize, DType::f32, mine.data(), sums.gradients.data(), sums.gradients.data());
      tree.finish(stream, i, std::move(sums));
    });
    ShardSums total = tree.total(team);
    std::vector<float> sum;
    team.run_one([&](Stream& stream) { sum = total.gradients.host<float>(stream); });
    EXPECT_THAT(sum, Each(kShards * (kShards + 1) / 2));
  }
}

TEST_P(CudaStreams, ADerivedCopyIsDoneBeforeAnotherStreamReadsIt) {
  CudaStream first(0), second(0);
  ParameterStore store;
  Parameter& parameter = store.add("p", {1}, Role::bias);
  store.allocate(first, DType::f32);
  for (int i = 0; i < 10; ++i) {
    auto make = [&](Stream& stream) { return upload(stream, numbers(1000, static_cast<float>(i))); };
    const std::string key = std::to_string(i);
    store.derived(first, key, {&parameter}, make);
    EXPECT_EQ(store.derived(second, key, {&parameter}, make).host<float>(second),
              numbers(1000, static_cast<float>(i)));
  }
}

TEST_P(CudaStreams, ATeamsRunEndsWithItsWork) {
  std::unique_ptr<Backend> backend = make_backend("sim");
  Team team(*backend, 2, 1);
  std::vector<Tensor> made(6);
  for (int round = 0; round < 3; ++round) {
    team.run(6, [&](Stream& stream, int64_t i) {
      Tensor one = upload(stream, numbers(100, static_cast<float>(i))), two(stream, DType::f32, {100});
      backend->add(stream, 100, DType::f32, one.data(), one.data(), two.data());
      made[static_cast<size_t>(i)] = two;
    });
    // Other streams than those that made them read them, and give them back.
    team.run(6, [&](Stream& stream, int64_t i) {
      Tensor mine = std::exchange(made[static_cast<size_t>(5 - i)], {});
      EXPECT_EQ(mine.host<float>(stream)[1], 2 * (5 - static_cast<float>(i) + 1));
    });
  }
}

std::string failure_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Failure& failure) {
    return failure.what();
  }
  return "(no failure)";
}

class CudaErrors : public ::testing::Test {
 protected:
  ~CudaErrors() override { simt::set_memory_limit(int64_t{16} << 30); }
};

TEST_F(CudaErrors, OutOfMemorySaysHowMuchAndWhatWouldHelp) {
  simt::set_memory_limit(1 << 20);
  CudaStream stream(0);
  const std::shared_ptr<CachingAllocator>& allocator = stream.allocator();
  void* kept = allocator->allocate(256 << 10);
  void* cached = allocator->allocate(128 << 10);
  allocator->release(cached, 128 << 10);  // given back before the failure: the message counts it as free
  EXPECT_THAT(failure_of([&] { allocator->allocate(2 << 20); }),
              AllOf(HasSubstr("has no 2097152 bytes left"), HasSubstr("786432 of its 1048576 bytes are free"),
                    HasSubstr("batch_size"), HasSubstr("this worker holds 262144 bytes")));
  allocator->release(kept, 256 << 10);
}

TEST_F(CudaErrors, CachedMemoryIsGivenBackBeforeThereIsNone) {
  simt::set_memory_limit(1 << 20);
  CudaStream stream(0);
  const std::shared_ptr<CachingAllocator>& allocator = stream.allocator();
  allocator->release(allocator->allocate(600 << 10), 600 << 10);
  void* block = allocator->allocate(800 << 10);
  EXPECT_EQ(allocator->statistics().held, allocator->statistics().in_use);
  allocator->release(block, 800 << 10);
}

TEST_F(CudaErrors, AnErrorNamesCallFileLineAndDevice) {
  EXPECT_THAT(failure_of([] { TAPER_CUDA(cudaSetDevice(8)); }),
              AllOf(HasSubstr("simt_stream_test.cpp:"), HasSubstr("cudaSetDevice(8) failed on CUDA device 0"),
                    HasSubstr("(cudaErrorInvalidDevice)")));
}

void kernel(int*) {}

TEST_F(CudaErrors, ALaunchBeyondTheLimitsIsRefusedByItsPlace) {
  CudaStream stream(0);
  EXPECT_THAT(failure_of([&] { launch(kernel, dim3(1, 70000), 32, 0, stream.handle(), nullptr); }),
              AllOf(HasSubstr("simt_stream_test.cpp:"), HasSubstr("1x70000x1 blocks")));
  EXPECT_THAT(failure_of([&] { launch(kernel, 1, 1025, 0, stream.handle(), nullptr); }),
              HasSubstr("1025x1x1 threads"));
  // More shared memory than a block can have: CUDA refuses it.
  EXPECT_THAT(failure_of([&] { launch(kernel, 1, 32, 1 << 20, stream.handle(), nullptr); }),
              HasSubstr("1048576 bytes of shared memory"));
  EXPECT_EQ(failure_of([&] { launch(kernel, dim3(0), 32, 0, stream.handle(), nullptr); }), "(no failure)");
}

TEST_F(CudaErrors, AnotherBackendsStreamIsRefused) {
  std::unique_ptr<Backend> sim = make_backend("sim");
  std::unique_ptr<Stream> stream = make_backend("cpu")->make_stream(1);
  float value = 1;
  EXPECT_THAT(failure_of([&] { sim->add(*stream, 1, DType::f32, &value, &value, &value); }),
              HasSubstr("needs a stream that it made itself"));
}

TEST_F(CudaErrors, SizesOfGridsAreChecked) {
  EXPECT_EQ(blocks_for(0, 256), 0U);
  EXPECT_EQ(blocks_for(257, 256), 2U);
  EXPECT_EQ(blocks_for(int64_t{0x7FFFFFFF} * 4, 4), 0x7FFFFFFFU);
  EXPECT_THROW(blocks_for(int64_t{0x7FFFFFFF} * 4 + 1, 4), Failure);
}

}  // namespace
}  // namespace taper
