// Orders that a device may choose: a correct program gives the same results under all of them, a wrong one is
// found by some.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "runtime/error.h"
#include "runtime/simt/simt.h"
#include "tests/simt/kernels.h"
#include "tests/simt/on_device.h"

namespace taper::simt_test {
namespace {

using simt::Schedule;
using testing::HasSubstr;

class SimtSchedule : public testing::Test {
 protected:
  ~SimtSchedule() override { simt::set_schedule(before_); }

  /// Under how many of twenty seeds `holds`.
  static int times(Schedule schedule, const std::function<bool()>& holds) {
    int count = 0;
    for (schedule.seed = 0; schedule.seed < 20; ++schedule.seed) {
      simt::set_schedule(schedule);
      count += holds() ? 1 : 0;
    }
    return count;
  }

 private:
  Schedule before_ = simt::schedule();
};

constexpr int kSteps = 5;

bool sums_are_right(Fault fault) {
  std::vector<float> x = integers(kSteps * 64, 1);
  OnDevice<float> on_device(x), sums(64);
  EXPECT_EQ(sum_columns(on_device.get(), sums.get(), kSteps, fault, nullptr), cudaSuccess);
  std::vector<float> expected(64);
  for (size_t i = 0; i < 64; ++i)
    for (size_t step = 0; step < kSteps; ++step) expected[i] += x[step * 64 + (i ^ 33)];
  std::vector<float> found = sums.values();
  return std::memcmp(found.data(), expected.data(), 64 * sizeof(float)) == 0;
}

constexpr Schedule kEarly{.order = Schedule::Order::kRandom, .copies = Schedule::Copies::kEarly};
constexpr Schedule kLate{.order = Schedule::Order::kRandom, .copies = Schedule::Copies::kLate};
constexpr Schedule kAnyTime{.order = Schedule::Order::kRandom, .copies = Schedule::Copies::kRandom};

TEST_F(SimtSchedule, ACorrectKernelGivesTheSameUnderEverySchedule) {
  for (const Schedule& schedule : {kEarly, kLate, kAnyTime})
    EXPECT_EQ(times(schedule, [] { return sums_are_right(Fault::kNone); }), 20);
}

TEST_F(SimtSchedule, LateCopiesFindAMissingWait) {
  if (TAPER_SIMT_CHECKED) GTEST_SKIP() << "the checker tells before the result can be wrong";
  EXPECT_EQ(times(kLate, [] { return sums_are_right(Fault::kMissingWait); }), 0);
}

TEST_F(SimtSchedule, RandomOrdersFindMissingBarriers) {
  if (TAPER_SIMT_CHECKED) GTEST_SKIP() << "the checker tells before the result can be wrong";
  EXPECT_LT(times(kLate, [] { return sums_are_right(Fault::kMissingBarrierBeforeRead); }), 20);
  EXPECT_LT(times(kEarly, [] { return sums_are_right(Fault::kMissingBarrierAfterRead); }), 20);
}

TEST_F(SimtSchedule, BlocksRunInEveryOrderOnceEach) {
  constexpr int kCount = 10000;  // 79 blocks
  OnDevice<float> a(integers(kCount, 1)), c(kCount);
  EXPECT_EQ(times(kEarly,
                  [&] {
                    EXPECT_EQ(cudaMemset(c.get(), 0, kCount * sizeof(float)), cudaSuccess);
                    EXPECT_EQ(vector_add(a.get(), a.get(), c.get(), kCount, nullptr), cudaSuccess);
                    std::vector<float> once = a.values(), twice = c.values();
                    for (int i = 0; i < kCount; ++i)
                      if (twice[i] != 2 * once[i]) return false;
                    return true;
                  }),
            20);
}

/// Two streams and an event.
struct TwoStreams {
  TwoStreams() {
    EXPECT_EQ(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking), cudaSuccess);
    EXPECT_EQ(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking), cudaSuccess);
    EXPECT_EQ(cudaEventCreate(&event, cudaEventDisableTiming), cudaSuccess);
  }
  ~TwoStreams() {
    EXPECT_EQ(cudaStreamDestroy(first), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(second), cudaSuccess);
    EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
  }
  cudaStream_t first, second;
  cudaEvent_t event;
};

constexpr Schedule kQueues{.streams = Schedule::Streams::kLate};

// 2 (a + a) by two streams, of which the second needs what the first wrote.
bool doubled_twice(bool ordered) {
  TwoStreams streams;
  // What is read too early is 0, and not unwritten, which the checker would refuse.
  OnDevice<float> a(integers(100, 2)), b(std::vector<float>(100)), c(100);
  EXPECT_EQ(vector_add(a.get(), a.get(), b.get(), 100, streams.first), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(streams.event, streams.first), cudaSuccess);
  EXPECT_EQ(ordered ? cudaStreamWaitEvent(streams.second, streams.event) : cudaSuccess, cudaSuccess);
  EXPECT_EQ(vector_add(b.get(), b.get(), c.get(), 100, streams.second), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(streams.second), cudaSuccess);
  std::vector<float> once = a.values(), result = c.values();
  for (size_t i = 0; i < 100; ++i)
    if (!(result[i] == 4 * once[i])) return false;
  return true;
}

TEST_F(SimtSchedule, LateStreamsFindAMissingEvent) {
  EXPECT_EQ(times(kQueues, [] { return doubled_twice(true); }), 20);
  int lucky = times(kQueues, [] { return doubled_twice(false); });
  EXPECT_GT(lucky, 0) << "the order is random";
  EXPECT_LT(lucky, 20);
}

TEST_F(SimtSchedule, LateCopiesReadPinnedMemoryWhenTheyRun) {
  simt::set_schedule(kQueues);
  TwoStreams streams;
  OnDevice<int> x(1);
  int* pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(&pinned, sizeof(int)), cudaSuccess);
  auto copied = [&](int* host) {
    *host = 1;
    EXPECT_EQ(cudaMemcpyAsync(x.get(), host, sizeof(int), cudaMemcpyHostToDevice, streams.first),
              cudaSuccess);
    *host = 2;
    EXPECT_EQ(cudaStreamSynchronize(streams.first), cudaSuccess);
    return x.values()[0];
  };
  int pageable = 0;
  EXPECT_EQ(copied(pinned), 2) << "too early overwritten";
  EXPECT_EQ(copied(&pageable), 1) << "the device stages such memory";
  EXPECT_EQ(cudaMemcpyAsync(x.get(), x.get() + 1, sizeof(int), cudaMemcpyDeviceToDevice, streams.first),
            cudaErrorInvalidValue)
      << "beyond the block";
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

TEST_F(SimtSchedule, TellsAtTheNextSynchronisationWhatFailed) {
  simt::set_schedule(kQueues);
  TwoStreams streams;
  EXPECT_EQ(mistaken(Mistake::kTrap, streams.first), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(streams.second), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(streams.first), cudaErrorLaunchFailure);
  EXPECT_THAT(cudaGetErrorString(cudaErrorLaunchFailure), HasSubstr("__trap"));
  EXPECT_EQ(cudaStreamSynchronize(streams.first), cudaSuccess);
}

TEST_F(SimtSchedule, AskingAgainAndAgainComesToAnEnd) {
  simt::set_schedule(kQueues);
  TwoStreams streams;
  OnDevice<float> a(integers(100, 2)), b(100);
  ASSERT_EQ(vector_add(a.get(), a.get(), b.get(), 100, streams.first), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(streams.event, streams.first), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(streams.second, streams.event), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(streams.second), cudaErrorNotReady);
  while (cudaEventQuery(streams.event) == cudaErrorNotReady) {
  }
  EXPECT_EQ(b.values()[5], 2 * a.values()[5]);
}

TEST_F(SimtSchedule, AGraphReplaysWhatTwoStreamsCaptured) {
  for (const Schedule& schedule : {Schedule{}, kQueues}) {
    EXPECT_EQ(times(schedule,
                    [] {
                      TwoStreams streams;
                      OnDevice<float> a(integers(100, 3)), b(100), c(100), d(100);
                      cudaGraph_t graph;
                      cudaGraphExec_t executable;
                      cudaEvent_t joined;
                      EXPECT_EQ(cudaEventCreate(&joined), cudaSuccess);
                      EXPECT_EQ(cudaStreamBeginCapture(streams.first, cudaStreamCaptureModeThreadLocal),
                                cudaSuccess);
                      EXPECT_EQ(vector_add(a.get(), a.get(), b.get(), 100, streams.first), cudaSuccess);
                      EXPECT_EQ(cudaEventRecord(streams.event, streams.first), cudaSuccess);
                      EXPECT_EQ(cudaStreamWaitEvent(streams.second, streams.event), cudaSuccess);
                      EXPECT_EQ(vector_add(a.get(), b.get(), c.get(), 100, streams.second), cudaSuccess);
                      EXPECT_EQ(cudaEventRecord(joined, streams.second), cudaSuccess);
                      EXPECT_EQ(vector_add(b.get(), b.get(), d.get(), 100, streams.first), cudaSuccess);
                      EXPECT_EQ(cudaStreamWaitEvent(streams.first, joined), cudaSuccess);
                      EXPECT_EQ(vector_add(c.get(), d.get(), d.get(), 100, streams.first), cudaSuccess);
                      EXPECT_EQ(cudaStreamEndCapture(streams.first, &graph), cudaSuccess);
                      EXPECT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
                      EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
                      std::vector<float> once = integers(100, 4);
                      EXPECT_EQ(cudaMemcpy(a.get(), once.data(), 100 * sizeof(float), cudaMemcpyHostToDevice),
                                cudaSuccess);
                      for (int replay = 0; replay < 2; ++replay)
                        EXPECT_EQ(cudaGraphLaunch(executable, streams.first), cudaSuccess);
                      EXPECT_EQ(cudaStreamSynchronize(streams.first), cudaSuccess);
                      EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
                      EXPECT_EQ(cudaEventDestroy(joined), cudaSuccess);
                      std::vector<float> result = d.values();
                      for (size_t i = 0; i < 100; ++i)
                        if (!(result[i] == 7 * once[i])) return false;
                      return true;
                    }),
              20);
  }
}

TEST_F(SimtSchedule, ACaptureRefusesWhatADeviceRefuses) {
  TwoStreams streams;
  OnDevice<float> a(integers(100, 3));
  cudaGraph_t graph;
  ASSERT_EQ(cudaStreamBeginCapture(streams.first, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, 10), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaStreamSynchronize(streams.first), cudaErrorStreamCaptureUnsupported);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorStreamCaptureUnsupported);
  ASSERT_EQ(cudaEventRecord(streams.event, streams.first), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(streams.second, streams.event), cudaSuccess);
  ASSERT_EQ(vector_add(a.get(), a.get(), a.get(), 100, streams.second), cudaSuccess);
  EXPECT_EQ(cudaStreamEndCapture(streams.first, &graph), cudaErrorStreamCaptureUnjoined);
  EXPECT_EQ(a.values(), integers(100, 3)) << "captured work does not run";
  cudaGetLastError();
}

TEST_F(SimtSchedule, ThreadsOfTheHostRunKernelsAtTheSameTime) {
  for (const Schedule& schedule : {Schedule{}, kQueues}) {
    simt::set_schedule(schedule);
    std::vector<std::thread> threads;
    for (int worker = 0; worker < 4; ++worker)
      threads.emplace_back([worker] {
        TwoStreams streams;
        const std::vector<float> values = integers(2560, worker);
        std::vector<float> expected(10);
        for (size_t i = 0; i < 2560; ++i) expected[i / 256] += values[i];
        OnDevice<float> x(values), sums(10);
        for (int run = 0; run < 20; ++run) {
          ASSERT_EQ(block_sums(x.get(), sums.get(), 2560, streams.first), cudaSuccess);
          ASSERT_EQ(cudaStreamSynchronize(streams.first), cudaSuccess);
          ASSERT_EQ(sums.values(), expected);
        }
      });
    for (std::thread& thread : threads) thread.join();
  }
}

TEST_F(SimtSchedule, IsReadFromTextAndNamesWhatItDoesNotKnow) {
  Schedule schedule = simt::parse_schedule("order=random,copies=late,streams=late,seed=7");
  EXPECT_EQ(schedule.order, Schedule::Order::kRandom);
  EXPECT_EQ(schedule.copies, Schedule::Copies::kLate);
  EXPECT_EQ(schedule.streams, Schedule::Streams::kLate);
  EXPECT_EQ(schedule.seed, 7U);
  EXPECT_EQ(simt::parse_schedule("").order, Schedule::Order::kFixed);
  for (const char* wrong : {"order=any", "seed=", "seed=7x", "speed=7"}) try {
      simt::parse_schedule(wrong);
      ADD_FAILURE() << wrong;
    } catch (const UserError& error) {
      EXPECT_THAT(error.what(), HasSubstr(wrong));
      EXPECT_THAT(error.what(), HasSubstr("copies=early|late|random"));
    }
}

TEST_F(SimtSchedule, MemoryHasALimit) {
  size_t free = 0, total = 0;
  ASSERT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
  simt::set_memory_limit(static_cast<int64_t>(total - free) + 1000);
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, 1001), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMalloc(&memory, 1000), cudaSuccess);
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
  simt::set_memory_limit(static_cast<int64_t>(total));
}

}  // namespace
}  // namespace taper::simt_test
