#pragma once
// A matrix product with any epilogue: what matmul and imitation launch.
//
// A block computes one tile of one matrix of the batch. Where tiles are few and k is long, several blocks
// share a tile, each with a part of k (split-K): they write f32 sums, and a second kernel adds these in the
// order of k and runs the epilogue. Tile and parts follow from the shape alone, and so do the bits.

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ffma_tile.cuh"
#include "kernels/cuda/mma_tile.cuh"
#include "kernels/matmul.h"
#include "runtime/cuda/launch.h"
#include "runtime/cuda/stream.h"

namespace taper::cuda {

/// How a product is made: of which elements, in which tiles; large ones where there are enough of them to
/// keep a device busy.
struct Bf16Products {
  using Element = Bf16;
  using Large = MmaTile<Bf16, 128, 128, 2, 4>;
  using Small = MmaTile<Bf16, 64, 64, 2, 2>;
};
struct Tf32Products {
  using Element = float;
  using Large = MmaTile<float, 128, 128, 2, 4>;
  using Small = MmaTile<float, 64, 64, 2, 2>;
};
struct F32Products {
  using Element = float;
  using Large = FfmaTile<128, 128, 4, 2>;
  using Small = FfmaTile<64, 64, 2, 2>;
};

/// As dispatch(), with one of these; `tf32` is BackendOptions'.
template <typename Use>
void dispatch_products(DType type, bool tf32, const char* op, Use&& use) {
  dispatch(type, op, [&](auto zero) {
    if constexpr (std::is_same_v<decltype(zero), Bf16>)
      use(Bf16Products{});
    else if (tf32)
      use(Tf32Products{});
    else
      use(F32Products{});
  });
}

inline constexpr int kCombineThreads = 256;

/// How a product is cut into blocks.
struct ProductPlan {
  bool large;
  uint32_t row_tiles, column_tiles, splits, blocks;
  int64_t split_steps;  ///< of a tile's kK, for each part of k

  /// Blocks that run the epilogue, each calling its finish() once.
  uint32_t epilogue_blocks;
};

/// Failure for a shape without elements or with more tiles than a grid has blocks.
template <typename Products>
ProductPlan plan_product(const MatmulShape& shape) {
  using Large = typename Products::Large;
  using Small = typename Products::Small;
  // About what the largest devices run at once.
  constexpr int64_t kEnoughTiles = 96, kEnoughBlocks = 128;
  // A part's first steps wait for memory: a part is much longer.
  constexpr int64_t kLeastDepth = 256;
  static_assert(Large::kK == Small::kK);
  TAPER_CHECK(shape.m > 0 && shape.n > 0 && shape.k > 0 && shape.batch > 0,
              "a product of {} times {} x {} x {}", shape.batch, shape.m, shape.k, shape.n);
  auto tiles = [&](int64_t m, int64_t n) {
    return shape.batch * int64_t{blocks_for(shape.m, m)} * blocks_for(shape.n, n);
  };
  ProductPlan plan;
  plan.large = shape.m > Small::kM && shape.n > Small::kN && tiles(Large::kM, Large::kN) >= kEnoughTiles;
  plan.row_tiles = blocks_for(shape.m, plan.large ? Large::kM : Small::kM);
  plan.column_tiles = blocks_for(shape.n, plan.large ? Large::kN : Small::kN);
  const int64_t all_tiles = shape.batch * plan.row_tiles * plan.column_tiles;
  const int64_t steps = blocks_for(shape.k, Large::kK);
  const int64_t splits =
      std::clamp<int64_t>(kEnoughBlocks / all_tiles, 1, std::max<int64_t>(1, shape.k / kLeastDepth));
  plan.split_steps = (steps + splits - 1) / splits;
  plan.splits = blocks_for(steps, plan.split_steps);
  plan.blocks = blocks_for(all_tiles * plan.splits, 1);
  plan.epilogue_blocks = plan.splits == 1
                             ? plan.blocks
                             : blocks_for(shape.batch * shape.m * blocks_for(shape.n, 4), kCombineThreads);
  return plan;
}

/// What the kernels need to know of a product.
template <typename T>
struct Product {
  const T *a, *b;
  int64_t m, n, k, batch, stride_a, stride_b;
  ProductPlan plan;
  bool vectors_a, vectors_b;  ///< as a loader's
  float* parts;               ///< [splits, batch, m, n], null for one part
};

/// A block's place: its tile, its matrix of the batch and its part of k.
struct ProductPlace {
  uint32_t row_tile, column_tile;
  int64_t matrix, split;

  /// Blocks that run at the same time read the same rows and columns: down eight tiles first, then across.
  __device__ __forceinline__ explicit ProductPlace(const ProductPlan& plan) {
    constexpr uint32_t kGroup = 8;
    const uint32_t tiles = plan.row_tiles * plan.column_tiles;
    const uint32_t tile = blockIdx.x % tiles, rest = blockIdx.x / tiles;
    const uint32_t first = tile / (kGroup * plan.column_tiles) * kGroup;
    const uint32_t within = tile % (kGroup * plan.column_tiles);
    const uint32_t down = plan.row_tiles - first < kGroup ? plan.row_tiles - first : kGroup;
    row_tile = first + within % down;
    column_tile = within / down;
    split = rest % plan.splits;
    matrix = rest / plan.splits;
  }
};

/// Epilogue: epilogue(matrix, row, column, count, values) takes the product's elements at (row, column) to
/// (row, column + count - 1), count <= 4; epilogue.finish(), called by all threads of a block at the end, may
/// reduce what they gathered.
template <typename Tile, Major kA, Major kB, typename Epilogue>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocksAtOnce)
    product_kernel(Product<typename Tile::Element> p, Epilogue epilogue) {
  using T = typename Tile::Element;
  T* shared = dynamic_shared<T>();
  const ProductPlace place(p.plan);
  const int64_t first_row = int64_t{place.row_tile} * Tile::kM;
  const int64_t first_column = int64_t{place.column_tile} * Tile::kN;
  const int64_t leading_a = kA == Major::k ? p.k : p.m, leading_b = kB == Major::k ? p.k : p.n;
  const int64_t first_k = place.split * p.plan.split_steps * Tile::kK;
  const int64_t depth = p.k - first_k, steps_left = (depth + Tile::kK - 1) / Tile::kK;
  const typename Tile::template Loader<kA, Tile::kM> load_a{
      p.a + place.matrix * p.stride_a +
          (kA == Major::k ? first_row * leading_a + first_k : first_row + first_k * leading_a),
      leading_a, p.m - first_row, depth, p.vectors_a};
  const typename Tile::template Loader<kB, Tile::kN> load_b{
      p.b + place.matrix * p.stride_b +
          (kB == Major::k ? first_column * leading_b + first_k : first_column + first_k * leading_b),
      leading_b, p.n - first_column, depth, p.vectors_b};
  typename Tile::Sums sums = {};
  Tile::template multiply<kA, kB>(
      sums, shared, steps_left < p.plan.split_steps ? steps_left : p.plan.split_steps, load_a, load_b);
  float* part = p.parts == nullptr ? nullptr : p.parts + (place.split * p.batch + place.matrix) * p.m * p.n;
  Tile::for_each_output(sums, shared, [&](int in_row, int in_column, float(&values)[4]) {
    const int64_t row = first_row + in_row, column = first_column + in_column;
    if (row >= p.m || column >= p.n) return;
    const int count = p.n - column < 4 ? static_cast<int>(p.n - column) : 4;
    if (part != nullptr)
      store(values, part + row * p.n + column, count, p.n % 4 == 0);
    else
      epilogue(place.matrix, row, column, count, values);
  });
  if (part == nullptr) epilogue.finish();
}

/// The second pass over a product in parts: a thread adds four neighbours' parts in order.
template <typename Epilogue>
__global__ void __launch_bounds__(kCombineThreads)
    combine_kernel(const float* parts, int64_t splits, int64_t batch, int64_t m, int64_t n,
                   Epilogue epilogue) {
  const int64_t groups = (n + 3) / 4, row = thread_number() / groups;  // of all matrices
  const int64_t column = thread_number() % groups * 4;
  if (row < batch * m) {
    const int count = n - column < 4 ? static_cast<int>(n - column) : 4;
    float values[4] = {};
    for (int64_t split = 0; split < splits; ++split) {
      float more[4] = {};
      load(more, parts + (split * batch * m + row) * n + column, count, n % 4 == 0);
#pragma unroll
      for (int i = 0; i < 4; ++i) values[i] += more[i];
    }
    epilogue(row / m, row % m, column, count, values);
  }
  epilogue.finish();
}

/// Starts the product's kernels. `plan` is plan_product<Products>(shape).
template <typename Products, Major kA, Major kB, typename Epilogue>
void launch_product(CudaStream& stream, const MatmulShape& shape, const ProductPlan& plan,
                    const typename Products::Element* a, const typename Products::Element* b,
                    const Epilogue& epilogue) {
  using T = typename Products::Element;
  using Large = typename Products::Large;
  using Small = typename Products::Small;
  auto whole = [](const T* from, int64_t line, int64_t stride) {
    return aligned(from) && line % kPerVector<T> == 0 && stride % kPerVector<T> == 0;
  };
  Product<T> product{.a = a,
                     .b = b,
                     .m = shape.m,
                     .n = shape.n,
                     .k = shape.k,
                     .batch = shape.batch,
                     .stride_a = shape.stride_a,
                     .stride_b = shape.stride_b,
                     .plan = plan,
                     .vectors_a = whole(a, kA == Major::k ? shape.k : shape.m, shape.stride_a),
                     .vectors_b = whole(b, kB == Major::k ? shape.k : shape.n, shape.stride_b),
                     .parts = nullptr};
  if (plan.splits > 1)
    product.parts = static_cast<float*>(
        stream.scratch(plan.splits * shape.batch * shape.m * shape.n * static_cast<int64_t>(sizeof(float))));
  if (plan.large)
    launch(product_kernel<Large, kA, kB, Epilogue>, plan.blocks, Large::kThreads, Large::kSharedBytes,
           stream.handle(), product, epilogue);
  else
    launch(product_kernel<Small, kA, kB, Epilogue>, plan.blocks, Small::kThreads, Small::kSharedBytes,
           stream.handle(), product, epilogue);
  if (plan.splits > 1)
    launch(combine_kernel<Epilogue>, plan.epilogue_blocks, kCombineThreads, 0, stream.handle(), product.parts,
           int64_t{plan.splits}, shape.batch, shape.m, shape.n, epilogue);
}

}  // namespace taper::cuda
