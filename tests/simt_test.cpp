// Kernels on runtime/simt against plain loops. The layouts of matrix fragments are those of the PTX ISA,
// "Matrix fragments for mma.m16n8k16" and "Warp-level matrix load instruction: ldmatrix".

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <utility>
#include <vector>

#include "tests/simt/kernels.h"
#include "tests/simt/on_device.h"

namespace taper::simt_test {
namespace {

std::vector<uint16_t> to_bf16(const std::vector<float>& values) {
  std::vector<uint16_t> result;
  for (float value : values) result.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16));
  return result;
}

TEST(Simt, AddsVectorsOfAnyLength) {
  for (int n : {1, 127, 128, 1000}) {
    OnDevice<float> a(integers(static_cast<size_t>(n), 1)), b(integers(static_cast<size_t>(n), 2)), c(1001);
    ASSERT_EQ(vector_add(a.get(), b.get(), c.get(), n, nullptr), cudaSuccess);
    auto sums = c.values();
    for (int i = 0; i < n; ++i) ASSERT_EQ(sums[i], a.values()[i] + b.values()[i]);
    ASSERT_TRUE(std::isnan(sums[n])) << "written beyond the end; new device memory is filled with 0xFF bytes";
  }
}

TEST(Simt, SumsABlockByShufflesAndABarrier) {
  constexpr int kCount = 1000;
  OnDevice<float> x(integers(kCount, 3)), sums(4);
  ASSERT_EQ(block_sums(x.get(), sums.get(), kCount, nullptr), cudaSuccess);
  std::vector<float> expected(4);
  for (int i = 0; i < kCount; ++i) expected[i / 256] += x.values()[i];
  EXPECT_EQ(sums.values(), expected);
}

TEST(Simt, HalvesOfAWarpMeetByMasksOfTheirOwn) {
  OnDevice<int> out(64 * 4);
  ASSERT_EQ(partial_masks(out.get(), nullptr), cudaSuccess);
  auto values = out.values();
  for (int thread = 0; thread < 64; ++thread) {
    int lane = thread % 32, first = thread - lane;
    const int* own = &values[thread * 4];
    if (lane < 16) {
      EXPECT_EQ(own[0], (thread ^ 1) * 10);
      EXPECT_EQ(own[1], (lane % 8 >= 2 ? thread - 2 : thread) * 10);
    } else {
      EXPECT_EQ(own[0], (first + 19) * 10);
      EXPECT_EQ(own[1], (first + 31) * 10);
    }
    EXPECT_EQ(static_cast<uint32_t>(own[2]), 0x49249249U);
    EXPECT_EQ(own[3], 10);
  }
}

TEST(Simt, MultipliesMatricesOfBf16) {
  for (auto [m, n, k] : {std::array{64, 64, 32}, {128, 64, 96}, {50, 70, 40}, {1, 1, 8}}) {
    auto a = integers(static_cast<size_t>(m * k), 4), b = integers(static_cast<size_t>(n * k), 5);
    OnDevice<uint16_t> a_device(to_bf16(a)), b_device(to_bf16(b));
    OnDevice<float> c(static_cast<size_t>(m * n));
    ASSERT_EQ(gemm_bf16(a_device.get(), b_device.get(), c.get(), m, n, k, nullptr), cudaSuccess);
    auto result = c.values();
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < n; ++j) {
        float sum = 0;
        for (int depth = 0; depth < k; ++depth) sum += a[i * k + depth] * b[j * k + depth];
        ASSERT_EQ(result[i * n + j], sum) << i << ", " << j << " of " << m << " x " << n << " x " << k;
      }
  }
}

TEST(Simt, RoundsToTf32BeforeAProduct) {
  auto a = integers(16 * 8, 6), b = integers(8 * 8, 7);
  a[5] = 1 + 0x1.0p-11F;   // a tie: away from zero
  a[6] = 1 + 0x1.8p-12F;   // down
  a[7] = -1 - 0x1.0p-11F;  // a tie
  OnDevice<float> a_device(a), b_device(b), c(16 * 8);
  ASSERT_EQ(product_tf32(a_device.get(), b_device.get(), c.get(), nullptr), cudaSuccess);
  a[5] = 1 + 0x1.0p-10F;
  a[6] = 1;
  a[7] = -1 - 0x1.0p-10F;
  auto result = c.values();
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j) {
      float sum = 0;
      for (int k = 0; k < 8; ++k) sum += a[i * 8 + k] * b[k * 8 + j];
      ASSERT_EQ(result[i * 8 + j], sum) << i << ", " << j;
    }
}

TEST(Simt, LoadsFragmentsAsThePtxManualSays) {
  std::vector<uint16_t> rows(32 * 8);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<uint16_t>(i);
  OnDevice<uint16_t> device(rows);
  OnDevice<uint32_t> registers(32 * 12);
  ASSERT_EQ(fragments(device.get(), registers.get(), nullptr), cudaSuccess);
  auto values = registers.values();
  for (uint32_t lane = 0; lane < 32; ++lane)
    for (uint32_t i = 0; i < 12; ++i) {
      bool four = i < 8, transposed = four ? i >= 4 : i >= 10;
      uint32_t matrix = four ? i % 4 : i % 2, row = lane / 4, column = lane % 4 * 2;
      auto element = [&](uint32_t part) {
        return transposed ? matrix * 64 + (column + part) * 8 + row : matrix * 64 + row * 8 + column + part;
      };
      ASSERT_EQ(values[lane * 12 + i], element(0) | element(1) << 16)
          << "lane " << lane << ", register " << i;
    }
}

TEST(Simt, DynamicSharedMemoryBeginsAsNaNAndHasTheDevicesLimits) {
  if (TAPER_SIMT_CHECKED) GTEST_SKIP() << "reading it is a mistake, which the checker tells";
  constexpr int kDefault = 48 * 1024 / 4, kLargest = 227 * 1024 / 4;
  OnDevice<uint32_t> out(2);
  for (int run = 0; run < 2; ++run) {
    ASSERT_EQ(shared_words(out.get(), kDefault, false, nullptr), cudaSuccess);
    EXPECT_THAT(out.values(), testing::Each(0xFFFFFFFFU)) << "run " << run;
  }
  EXPECT_EQ(shared_words(out.get(), kDefault + 1, false, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(shared_words(out.get(), kLargest, true, nullptr), cudaSuccess);
  EXPECT_EQ(shared_words(out.get(), kLargest + 1, true, nullptr), cudaErrorInvalidValue);
}

TEST(Simt, SaysWhichThreadsWaitWhereWhenABlockCannotGoOn) {
  const std::pair<Mistake, const char*> cases[] = {
      {Mistake::kDivergentBarrier,
       "mistaken_kernel, .*kernels.cu:[0-9]+ .block .0,0,0., thread .32,0,0..: others wait at"},
      {Mistake::kExitedBeforeBarrier,
       "1 thread .\\(7,0,0.\\) exited; 63 threads .the first is .0,0,0.. wait in"},
      {Mistake::kWrongMask, "thread .0,0,0..: lane 0 is not in its own mask 0xfffffffe"},
      {Mistake::kMissingLane,
       "31 threads .the first is .0,0,0.. wait for the lanes 0xffffffff at .*kernels.cu"},
      {Mistake::kForeignLane, "a shuffle reads from a lane that is not in the mask"},
      {Mistake::kTrap, "thread .3,0,0..: __trap"}};
  for (const auto& [mistake, message] : cases) {
    EXPECT_EQ(mistaken(mistake, nullptr), cudaErrorLaunchFailure);
    EXPECT_EQ(cudaGetLastError(), cudaErrorLaunchFailure);
    EXPECT_THAT(cudaGetErrorString(cudaErrorLaunchFailure), testing::ContainsRegex(message));
  }
  OnDevice<float> a(integers(300, 1)), c(300);
  EXPECT_EQ(vector_add(a.get(), a.get(), c.get(), 300, nullptr), cudaSuccess) << "later kernels run";
}

TEST(Simt, RefusesGridsThatNoDeviceRuns) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(1);
  config.blockDim = dim3(1025);
  void (*nothing)() = [] {};
  EXPECT_EQ(cudaLaunchKernelEx(&config, nothing), cudaErrorInvalidConfiguration);
  config.blockDim = dim3(32);
  config.gridDim = dim3(1, 65536);
  EXPECT_EQ(cudaLaunchKernelEx(&config, nothing), cudaErrorInvalidConfiguration);
  config.gridDim = dim3(0);
  EXPECT_EQ(cudaLaunchKernelEx(&config, nothing), cudaErrorInvalidConfiguration);
}

}  // namespace
}  // namespace taper::simt_test
