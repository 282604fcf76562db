// What the checker finds in kernels with one mistake each, and that it is silent about those without.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "runtime/simt/check/report.h"
#include "tests/simt/kernels.h"
#include "tests/simt/on_device.h"

namespace taper::simt_test {
namespace {

using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;

std::string message(cudaError_t error) {
  EXPECT_EQ(cudaGetLastError(), error);
  return cudaGetErrorString(error);
}

std::string message(Broken broken) {
  OnDevice<float> x(integers(128, 1));
  OnDevice<int> count(std::vector<int>{0});
  return message(run_broken(broken, x.get(), count.get()));
}

TEST(SimtCheck, IsSilentAboutCorrectKernels) {
  for (Broken correct : {Broken::kNothing, Broken::kSyncwarp, Broken::kFence})
    EXPECT_EQ(message(correct), "no error");
}

TEST(SimtCheck, FindsAccessesOutOfBounds) {
  EXPECT_THAT(
      message(Broken::kReadBeyondGlobal),
      ContainsRegex(
          "broken_kernel, tests/simt/broken.cu:[0-9]+ .block .1,0,0., thread .63,0,0..: reads 4 bytes at "
          "0x[0-9a-f]+, byte 512 of a block of 512 bytes"));
  EXPECT_THAT(message(Broken::kWriteBeyondGlobal), HasSubstr("byte 512 of a block of 512 bytes"));
  EXPECT_THAT(message(Broken::kBeforeGlobal),
              AllOf(HasSubstr("thread (0,0,0)"), HasSubstr("writes 4 bytes")));
  EXPECT_THAT(
      message(Broken::kBeyondShared),
      HasSubstr("4 bytes at byte 260 are beyond the 260 of the shared array simt_test::broken_kernel::tile"));
  EXPECT_THAT(
      message(Broken::kBeyondDynamic),
      HasSubstr("4 bytes at byte 256 of dynamic shared memory are beyond the 256 that the launch gives"));
}

TEST(SimtCheck, FindsReadsOfWhatNobodyWrote) {
  EXPECT_THAT(
      message(Broken::kUninitialised),
      HasSubstr("reads byte 0 of simt_test::broken_kernel::tile, which no thread of the block has written"));
  EXPECT_THAT(message(Broken::kUninitialisedDynamic), HasSubstr("reads byte 20 of dynamic shared memory"));

  // Of global memory half is written, and of its copy the same half.
  OnDevice<int> count(std::vector<int>{0});
  float *halves = nullptr, *copy = nullptr;
  ASSERT_EQ(cudaMalloc(&halves, 512), cudaSuccess);
  ASSERT_EQ(cudaMalloc(&copy, 512), cudaSuccess);
  ASSERT_EQ(cudaMemset(halves, 0, 256), cudaSuccess);
  ASSERT_EQ(cudaMemset(copy, 0, 512), cudaSuccess);
  ASSERT_EQ(cudaMemcpy(copy, halves, 512, cudaMemcpyDeviceToDevice), cudaSuccess);
  for (float* x : {halves, copy})
    EXPECT_THAT(
        message(run_broken(Broken::kNothing, x, count.get())),
        HasSubstr("reads 4 bytes at byte 256 of a block of 512 bytes, some of which nothing has written"));
  ASSERT_EQ(cudaFree(halves), cudaSuccess);
  ASSERT_EQ(cudaFree(copy), cudaSuccess);
}

TEST(SimtCheck, FindsAddressesThatAreNone) {
  EXPECT_THAT(message(Broken::kMisaligned), HasSubstr("not aligned"));
  static float host[128];
  EXPECT_THAT(message(run_broken(Broken::kNothing, host, nullptr)), HasSubstr("no memory of the device"));
  float* freed = nullptr;
  ASSERT_EQ(cudaMalloc(&freed, 512), cudaSuccess);
  ASSERT_EQ(cudaFree(freed), cudaSuccess);
  EXPECT_THAT(message(run_broken(Broken::kNothing, freed, nullptr)),
              HasSubstr("byte 0 of a freed block of 512 bytes"));
}

TEST(SimtCheck, FindsRacesBetweenBlocks) {
  EXPECT_THAT(message(Broken::kBlocksWriteTheSame),
              ContainsRegex("a race: writes global memory that thread .0,0,0. of another block writes at "
                            "tests/simt/broken.cu"));
  EXPECT_THAT(message(Broken::kBlocksReadWhatOthersWrite), HasSubstr("of another block"));
  EXPECT_THAT(message(Broken::kNoFence),
              ContainsRegex("reads global memory that thread .[0-9]+,0,0. of another block writes"));
}

TEST(SimtCheck, FindsRacesWithinABlock) {
  EXPECT_THAT(message(Broken::kNoSyncwarp),
              HasSubstr("a race: reads shared memory that thread (0,0,0) of this block writes"));
  for (Broken broken : {Broken::kSyncwarpAcrossWarps, Broken::kOverwritten})
    EXPECT_THAT(message(broken),
                ContainsRegex("a race: reads shared memory that thread .[0-9]+,0,0. of this block writes"));
  OnDevice<float> x(integers(5 * 64, 1)), sums(64);
  auto run = [&](Fault fault) { return message(sum_columns(x.get(), sums.get(), 5, fault, nullptr)); };
  EXPECT_EQ(run(Fault::kNone), "no error");
  EXPECT_THAT(run(Fault::kMissingWait),
              ContainsRegex("cp.async at tests/simt/pipeline.cu:[0-9]+ may not have written"));
  EXPECT_THAT(run(Fault::kMissingBarrierBeforeRead),
              ContainsRegex("buffer, which no thread of the block has written so far"));
  EXPECT_THAT(run(Fault::kMissingBarrierAfterRead), HasSubstr("may not have written"))
      << "too early in flight";
}

// The counts of the lines of a kernel that touch shared (or global) memory in one way.
simt::LineCounts counts(const std::string& kernel, bool shared, bool write) {
  simt::LineCounts sum{};
  for (const simt::LineCounts& line : simt::line_counts()) {
    if (line.kernel.find(kernel) == std::string::npos || line.shared != shared || line.write != write)
      continue;
    sum.requests += line.requests;
    sum.moved += line.moved;
    sum.least += line.least;
  }
  return sum;
}

TEST(SimtCheck, CountsBankConflictsAndSectors) {
  OnDevice<float> x(integers(2048, 1)), out(1024);
  simt::count_accesses(true);
  ASSERT_EQ(transpose(x.get(), out.get(), 1, false), cudaSuccess);
  EXPECT_EQ(counts("transpose_kernel<32>", true, true).moved, 32);
  EXPECT_EQ(counts("transpose_kernel<32>", true, false).requests, 32);
  EXPECT_EQ(counts("transpose_kernel<32>", true, false).moved, 32 * 32) << "all rows begin in the same bank";
  EXPECT_EQ(counts("transpose_kernel<32>", true, false).least, 32);
  EXPECT_EQ(counts("transpose_kernel<32>", false, false).moved, 32 * 4) << "sectors of 32 bytes";
  ASSERT_EQ(transpose(x.get(), out.get(), 2, true), cudaSuccess);
  EXPECT_EQ(counts("transpose_kernel<33>", true, false).moved, 32);
  EXPECT_EQ(counts("transpose_kernel<33>", false, false).moved, 32 * 8);
  EXPECT_EQ(counts("transpose_kernel<33>", false, false).least, 32 * 4);
  EXPECT_THAT(
      simt::report(),
      ContainsRegex(
          "transpose_kernel<32> . tests/simt/broken.cu:[0-9]+ . shared read . 32 . 1024 . 32 . 32.00"));
  simt::count_accesses(false);
}

// A lane whose copy is not valid takes part in the warp's request all the same: its next copy belongs to the
// next request.
TEST(SimtCheck, CountsCopiesThatAreNotValid) {
  OnDevice<float> x(integers(64, 1)), out(32);
  simt::count_accesses(true);
  ASSERT_EQ(copy_some(x.get(), out.get()), cudaSuccess);
  const simt::LineCounts reads = counts("copy_kernel", false, false);
  EXPECT_EQ(reads.requests, 2);
  EXPECT_EQ(reads.moved, 4 + 4);
  EXPECT_EQ(reads.least, 2 + 4) << "16 floats, then 32";
  EXPECT_EQ(counts("copy_kernel", true, true).moved, 2);
  simt::count_accesses(false);
}

TEST(SimtCheck, CountsLdmatrixByItsRows) {
  OnDevice<uint16_t> a(std::vector<uint16_t>(64 * 32)), b(std::vector<uint16_t>(64 * 32));
  OnDevice<float> c(64 * 64);
  simt::count_accesses(true);
  ASSERT_EQ(gemm_bf16(a.get(), b.get(), c.get(), 64, 64, 32, nullptr), cudaSuccess);
  simt::LineCounts reads = counts("gemm_bf16_kernel", true, false);
  // Of each warp and 16 deep step: 2 of four matrices, 4 of two.
  EXPECT_EQ(reads.requests, 4 * 2 * 6);
  EXPECT_EQ(reads.least, 4 * 2 * (2 * 4 + 4 * 2));
  EXPECT_EQ(reads.moved, reads.least) << "rows of 80 bytes have no conflicts";
  simt::count_accesses(false);
}

}  // namespace
}  // namespace taper::simt_test
