// Sums down the columns of [rows, columns] arrays, in an order that the shape alone decides: within blocks of
// 128 rows in float, over blocks in double. For batch norm, biases, averages.

#if defined(TAPER_KERNELS_CPU_COLUMNS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TAPER_KERNELS_CPU_COLUMNS_INL_H_
#undef TAPER_KERNELS_CPU_COLUMNS_INL_H_
#else
#define TAPER_KERNELS_CPU_COLUMNS_INL_H_
#endif

#include "kernels/cpu/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace taper::HWY_NAMESPACE {
namespace {

/// How the rows are walked. Narrow rows are taken `fold` at a time as one wide row, so that 1 channel is as
/// fast as 128; what belongs to a channel is then tiled `fold` times. The last rows % fold come on their own.
struct ColumnPlan {
  int64_t rows, columns;
  int64_t fold = columns >= 128 ? 1 : std::min(rows, 128 / columns);
  int64_t width = fold * columns, wide_rows = rows / fold, rest = rows % fold;
  // Parts are what threads share out: at most 64, whatever the number of threads.
  int64_t part_rows = ((wide_rows + 63) / 64 + kBlock - 1) / kBlock * kBlock;
  int64_t parts = (wide_rows + part_rows - 1) / part_rows;

  static constexpr int64_t kBlock = 128;
  /// Scratch for `sums` sums: doubles and floats of each part.
  int64_t bytes(int64_t sums) const {
    return parts * sums * width * static_cast<int64_t>(sizeof(double) + sizeof(float));
  }
  /// f(offset of the first element, rows, width) over pieces of about 16,000 elements, in any order.
  template <typename F>
  void for_pieces(int threads, F f) const {
    int64_t grain = std::max<int64_t>(1, 16384 / width);
    for_parts(threads, wide_rows, grain,
              [&](int64_t begin, int64_t end) { f(begin * width, end - begin, width); });
    if (rest > 0) f(wide_rows * width, int64_t{1}, rest * columns);
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
