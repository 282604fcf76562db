// Sums down the columns of [rows, columns] arrays, in an order that the shape alone decides: within blocks of
// 128 rows in float, over blocks in double. For batch norm, biases, averages.

#if defined(TAPER_KERNELS_CPU_COLUMNS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TAPER_KERNELS_CPU_COLUMNS_INL_H_
#undef TAPER_KERNELS_CPU_COLUMNS_INL_H_
#else
#define TAPER_KERNELS_CPU_COLUMNS_INL_H_
#endif

#include <numeric>

#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace taper::HWY_NAMESPACE {
namespace {

/// A whole vector's worth of columns, or what is left at a row's end.
struct WholeVector {
  template <typename T>
  HWY_INLINE V operator()(const T* p) const {
    return load(p);
  }
  template <typename T>
  HWY_INLINE void put(V v, T* p) const {
    store(v, p);
  }
};
struct PartOfVector {
  int64_t count;
  template <typename T>
  HWY_INLINE V operator()(const T* p) const {
    return load_part(p, count);
  }
  template <typename T>
  HWY_INLINE void put(V v, T* p) const {
    store_part(v, p, count);
  }
};

/// f(get, j) for the columns [j, j + kLanes) of a row; get(p + j) loads them, get.put(v, p + j) stores them.
template <typename F>
HWY_MAYBE_UNUSED HWY_INLINE void for_columns(int64_t width, F f) {
  int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes) f(WholeVector(), j);
  if (j < width) f(PartOfVector{width - j}, j);
}

/// How many rows are taken side by side as one: enough for whole vectors and some length.
constexpr int64_t rows_side_by_side(int64_t rows, int64_t columns) {
  if (columns >= 512) return 1;
  int64_t even = 16 / std::gcd(int64_t{16}, columns);
  return std::min(rows, even * std::max<int64_t>(1, 128 / (even * columns)));
}

/// How the rows are walked. Narrow rows are taken `fold` at a time as one wide row, so that 1 channel is as
/// fast as 128; what belongs to a channel is then tiled `fold` times. The last rows % fold come on their own.
struct ColumnPlan {
  int64_t rows, columns;
  int64_t fold = rows_side_by_side(rows, columns);
  int64_t width = fold * columns, wide_rows = rows / fold, rest = rows % fold;
  // Parts are what threads share out: at most 64, whatever the number of threads.
  int64_t part_rows = ((wide_rows + 63) / 64 + kBlock - 1) / kBlock * kBlock;
  int64_t parts = (wide_rows + part_rows - 1) / part_rows;

  static constexpr int64_t kBlock = 128;
  /// Scratch for `sums` sums: doubles and floats of each part.
  int64_t bytes(int64_t sums) const {
    return parts * sums * width * static_cast<int64_t>(sizeof(double) + sizeof(float));
  }
  /// f(offset of the first element, rows, width) over pieces of about 16,000 elements, the last ones first: a
  /// pass in this order after one in the usual order finds the end of its input still in the cache.
  template <typename F>
  void for_pieces_backwards(int threads, F f) const {
    if (rest > 0) f(wide_rows * width, int64_t{1}, rest * columns);
    int64_t grain = std::max<int64_t>(1, 16384 / width);
    for_parts(threads, wide_rows, grain,
              [&](int64_t begin, int64_t end) { f((wide_rows - end) * width, end - begin, width); });
  }
};

/// totals[i][column] = the i-th of kSums sums. add(offset, rows, width, sums) adds the rows from element
/// `offset` on, each `width` wide, to the arrays sums[i][width]. `scratch` has plan.bytes(kSums).
template <int kSums, typename Add>
HWY_MAYBE_UNUSED void column_sums(const ColumnPlan& plan, int threads, void* scratch, double* totals,
                                  Add add) {
  int64_t size = kSums * plan.width;
  auto* part_totals = static_cast<double*>(scratch);
  auto* part_blocks = reinterpret_cast<float*>(part_totals + plan.parts * size);
  auto add_block = [&](int64_t offset, int64_t rows, int64_t width, double* total, float* block) {
    std::fill(block, block + kSums * width, 0.0f);
    add(offset, rows, width, block);
    for (int64_t j = 0; j < kSums * width; ++j) total[j] += static_cast<double>(block[j]);
  };
  for_parts(threads, plan.wide_rows, plan.part_rows, [&](int64_t begin, int64_t end) {
    int64_t part = begin / plan.part_rows;
    double* total = part_totals + part * size;
    std::fill(total, total + size, 0.0);
    for (int64_t row = begin; row < end; row += ColumnPlan::kBlock)
      add_block(row * plan.width, std::min(ColumnPlan::kBlock, end - row), plan.width, total,
                part_blocks + part * size);
  });
  std::fill(totals, totals + kSums * plan.columns, 0.0);
  for (int64_t part = 0; part < plan.parts; ++part)
    for (int64_t sum = 0; sum < kSums; ++sum)
      for (int64_t j = 0; j < plan.width; ++j)
        totals[sum * plan.columns + j % plan.columns] += part_totals[part * size + sum * plan.width + j];
  if (plan.rest > 0) add_block(plan.wide_rows * plan.width, plan.rest, plan.columns, totals, part_blocks);
}

}  // namespace
}  // namespace taper::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
