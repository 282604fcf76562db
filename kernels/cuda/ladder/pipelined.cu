// Step 5: nothing waits for memory. Copies go past the registers straight into shared memory (cp.async),
// three steps ahead of the multiplications, with one barrier a step; lines are swizzled where step 4 padded
// them; the sums leave in whole sectors. This is the engine's own tile (mma_tile.cuh, which explains it),
// without the batch, transposes, split-K and epilogues that product.cuh and matmul.cu add.

#include "kernels/cuda/ladder/ladder.h"
#include "kernels/cuda/mma_tile.cuh"
#include "runtime/cuda/launch.h"
#include "runtime/cuda/stream.h"

namespace taper::ladder {

using namespace cuda;

namespace {

using Tile = MmaTile<Bf16, 64, 64, 2, 2>;

__global__ void __launch_bounds__(Tile::kThreads, 512 / Tile::kThreads)
    pipelined_kernel(int64_t m, int64_t n, int64_t k, int64_t column_blocks, const Bf16* a, const Bf16* b,
                     float* out, bool vectors_a, bool vectors_b, bool vectors_out) {
  Bf16* shared = dynamic_shared<Bf16>();
  const int64_t first_row = blockIdx.x / column_blocks * Tile::kM;
  const int64_t first_column = blockIdx.x % column_blocks * Tile::kN;
  const Tile::Loader<Major::k, Tile::kM> load_a{a + first_row * k, k, m - first_row, k, vectors_a};
  const Tile::Loader<Major::mn, Tile::kN> load_b{b + first_column, n, n - first_column, k, vectors_b};
  Tile::Sums sums = {};
  Tile::multiply<Major::k, Major::mn>(sums, shared, (k + Tile::kK - 1) / Tile::kK, load_a, load_b);
  Tile::for_each_output(sums, shared, [&](int in_row, int in_column, float(&values)[4]) {
    const int64_t row = first_row + in_row, column = first_column + in_column;
    if (row < m) store(values, out + row * n + column, n - column, vectors_out);
  });
}

}  // namespace

void pipelined(Stream& stream, int64_t m, int64_t n, int64_t k, const void* a, const void* b, float* out) {
  const int64_t down = blocks_for(m, Tile::kM), across = blocks_for(n, Tile::kN);
  launch(pipelined_kernel, blocks_for(down * across, 1), Tile::kThreads, Tile::kSharedBytes,
         cuda_stream(stream).handle(), m, n, k, across, static_cast<const Bf16*>(a),
         static_cast<const Bf16*>(b), out, aligned(a) && k % 8 == 0, aligned(b) && n % 8 == 0,
         aligned(out) && n % 4 == 0);
}

}  // namespace taper::ladder
