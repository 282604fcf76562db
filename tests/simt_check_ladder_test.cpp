// What each step of docs/kernels.md's matrix product asks of memory, as the checker counts it. What is
// expected is derived from the tiles' sizes, not taken from a run: the page's table is what the kernels do.

#include <cuda_runtime.h>
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/ladder/ladder.h"
#include "runtime/simt/check/report.h"
#include "tests/simt/on_device.h"

namespace taper::simt_test {
namespace {

/// Requests of warps, and the sectors or passes over the banks that they took.
struct Access {
  int64_t requests = 0, moved = 0;
  bool operator==(const Access&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Access& access) {
  return out << access.requests << " requests, " << access.moved << " moved";
}

struct Traffic {
  Access global_read, global_write, shared_read, shared_write;
};

constexpr int64_t kSize = 128;

// Of one product of kSize x kSize x kSize.
Traffic traffic(const std::string& name) {
  const ladder::Rung* rung = ladder::kRungs;
  while (rung->name != name) ++rung;
  CudaBackend backend("sim", 0, {});
  const auto stream = backend.make_stream(1);
  // Large enough for both types.
  OnDevice<float> a(integers(kSize * kSize, 1)), b(integers(kSize * kSize, 2)), out(kSize * kSize);
  simt::count_accesses(true);
  rung->product(*stream, kSize, kSize, kSize, a.get(), b.get(), out.get());
  stream->synchronize();
  Traffic sum;
  for (const simt::LineCounts& line : simt::line_counts()) {
    Access& access = line.shared ? (line.write ? sum.shared_write : sum.shared_read)
                                 : (line.write ? sum.global_write : sum.global_read);
    access.requests += line.requests;
    access.moved += line.moved;
  }
  simt::count_accesses(false);
  fmt::print(
      "{}: global reads {} ({} sectors), writes {} ({}); shared reads {} ({} passes), writes {} ({})\n", name,
      sum.global_read.requests, sum.global_read.moved, sum.global_write.requests, sum.global_write.moved,
      sum.shared_read.requests, sum.shared_read.moved, sum.shared_write.requests, sum.shared_write.moved);
  return sum;
}

constexpr int64_t kOutputs = kSize * kSize;
constexpr int64_t kOutputSectors = kOutputs / 8;

TEST(LadderTraffic, Naive) {
  const Traffic t = traffic("naive");
  constexpr int64_t kTimes = kOutputs / 32 * kSize;  // of each warp, for each k
  EXPECT_EQ(t.global_read, (Access{kTimes * 2, kTimes * (1 + 4)})) << "one element of a, 32 of b";
  EXPECT_EQ(t.global_write, (Access{kOutputs / 32, kOutputSectors}));
  EXPECT_EQ(t.shared_read, Access{});
  EXPECT_EQ(t.shared_write, Access{});
}

TEST(LadderTraffic, Tiled) {
  const Traffic t = traffic("tiled");
  constexpr int64_t kTiles = 4 * 4 * 4, kLines = 2 * 32;  // of 32 x 32 x 32; of both operands
  EXPECT_EQ(t.global_read, (Access{kTiles * kLines, kTiles * kLines * 4}));
  EXPECT_EQ(t.global_write, (Access{kOutputs / 32, kOutputSectors}));
  EXPECT_EQ(t.shared_write, (Access{kTiles * kLines, kTiles * kLines}));
  constexpr int64_t kReads = kTiles * 8 * 32 * (4 + 1);  // 8 warps, each k: four rows of a, one of b
  EXPECT_EQ(t.shared_read, (Access{kReads, kReads}));
}

TEST(LadderTraffic, RegisterBlocked) {
  const Traffic t = traffic("register blocked");
  constexpr int64_t kTiles = 2 * 2 * 16, kLoads = 2 * 64 * 8 / 32;  // of 64 x 64 x 8
  EXPECT_EQ(t.global_read, (Access{kTiles * kLoads, kTiles * kLoads * 4}));
  EXPECT_EQ(t.global_write, (Access{kOutputs / 128, kOutputSectors}));
  EXPECT_EQ(t.shared_write, (Access{kTiles * kLoads, kTiles * kLoads}));
  constexpr int64_t kReads = kTiles * 2 * 8 * 4;  // 2 warps, each k: two of a, two of b, of 16 bytes
  EXPECT_EQ(t.shared_read, (Access{kReads, kReads * 4}));
}

// 16 bytes of each lane, of both operands' 64 x 64 x 32 tiles.
constexpr int64_t kMmaTiles = 2 * 2 * 4, kMmaLoads = kMmaTiles * 2 * 64 * 32 / 8 / 32;
// 4 warps, two steps of 16: two fragments of a, two pairs of b's.
constexpr int64_t kFragments = kMmaTiles * 4 * 2 * 4;

TEST(LadderTraffic, TensorCore) {
  const Traffic t = traffic("tensor core");
  EXPECT_EQ(t.global_read, (Access{kMmaLoads, kMmaLoads * 16}));
  EXPECT_EQ(t.global_write, (Access{kOutputs / 64, kOutputSectors}));
  EXPECT_EQ(t.shared_read, (Access{kFragments, kFragments * 4}));
  // Of b four passes; of a eight, since the lines of 80 bytes that eight lanes fill two by two overlap.
  EXPECT_EQ(t.shared_write, (Access{kMmaLoads, kMmaLoads / 2 * (4 + 8)}));
}

TEST(LadderTraffic, Pipelined) {
  const Traffic t = traffic("pipelined");
  EXPECT_EQ(t.global_read, (Access{kMmaLoads, kMmaLoads * 16}));
  EXPECT_EQ(t.global_write, (Access{kOutputs / 128, kOutputSectors}));
  // The operands, and the sums on their way out: written by pairs, read by fours.
  EXPECT_EQ(t.shared_read, (Access{kFragments + kOutputs / 128, kFragments * 4 + kOutputs / 32}));
  EXPECT_EQ(t.shared_write, (Access{kMmaLoads + kOutputs / 64, kMmaLoads * 4 + kOutputs / 32}));
}

}  // namespace
}  // namespace taper::simt_test
