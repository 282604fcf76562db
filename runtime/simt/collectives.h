#pragma once
// CUDA's functions in which threads meet: barriers, shuffles, votes and reductions. Each also knows the line
// that calls it. Stricter than a device, so that a mistake shows: all threads of a block, or all lanes of the
// mask, must come to the same line; none of them may have exited; a lane outside the mask cannot be read.

#include <bit>
#include <concepts>
#include <cstdint>
#include <source_location>

namespace taper::simt {

/// Waits for all threads of the block and returns the sum of what they brought.
int sync_threads(int value, std::source_location where);
void sync_warp(uint32_t mask, std::source_location where);
/// The lanes of `mask` that brought true.
uint32_t ballot(uint32_t mask, bool vote, std::source_location where);
/// What lane `source` (of this warp) brought.
uint64_t shuffle(uint32_t mask, uint64_t value, int source, std::source_location where);

enum class Reduction { kAdd, kMin, kMax, kAnd, kOr, kXor };
int64_t reduce(uint32_t mask, int64_t value, Reduction reduction, std::source_location where);

/// The calling thread's place in its warp.
int lane();

template <typename T>
concept Shuffled = std::is_arithmetic_v<T> &&(sizeof(T) == 4 || sizeof(T) == 8);

template <Shuffled T>
T shuffle_value(uint32_t mask, T value, int source, std::source_location where) {
  if constexpr (sizeof(T) == 4)
    return std::bit_cast<T>(
        static_cast<uint32_t>(shuffle(mask, std::bit_cast<uint32_t>(value), source, where)));
  else
    return std::bit_cast<T>(shuffle(mask, std::bit_cast<uint64_t>(value), source, where));
}

}  // namespace taper::simt

#define TAPER_SIMT_HERE std::source_location where = std::source_location::current()

inline void __syncthreads(TAPER_SIMT_HERE) { taper::simt::sync_threads(0, where); }
inline int __syncthreads_count(int predicate, TAPER_SIMT_HERE) {
  return taper::simt::sync_threads(predicate != 0 ? 1 : 0, where);
}
inline int __syncthreads_or(int predicate, TAPER_SIMT_HERE) {
  return taper::simt::sync_threads(predicate != 0 ? 1 : 0, where) != 0 ? 1 : 0;
}
inline int __syncthreads_and(int predicate, TAPER_SIMT_HERE) {
  return taper::simt::sync_threads(predicate != 0 ? 0 : 1, where) == 0 ? 1 : 0;
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFF, TAPER_SIMT_HERE) { taper::simt::sync_warp(mask, where); }

inline unsigned __ballot_sync(unsigned mask, int predicate, TAPER_SIMT_HERE) {
  return taper::simt::ballot(mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate, TAPER_SIMT_HERE) {
  return taper::simt::ballot(mask, predicate != 0, where) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int predicate, TAPER_SIMT_HERE) {
  return taper::simt::ballot(mask, predicate != 0, where) == mask ? 1 : 0;
}

// Where the source would lie outside the lane's section of `width` lanes, the lane gets its own value.
template <taper::simt::Shuffled T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, TAPER_SIMT_HERE) {
  int section = taper::simt::lane() & -width;
  return taper::simt::shuffle_value(mask, value, section + (source & (width - 1)), where);
}
template <taper::simt::Shuffled T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, TAPER_SIMT_HERE) {
  int lane = taper::simt::lane(), source = lane - static_cast<int>(delta);
  return taper::simt::shuffle_value(mask, value, source < (lane & -width) ? lane : source, where);
}
template <taper::simt::Shuffled T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, TAPER_SIMT_HERE) {
  int lane = taper::simt::lane(), source = lane + static_cast<int>(delta);
  return taper::simt::shuffle_value(mask, value, source >= (lane & -width) + width ? lane : source, where);
}
template <taper::simt::Shuffled T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, TAPER_SIMT_HERE) {
  int lane = taper::simt::lane(), source = lane ^ bits;
  return taper::simt::shuffle_value(mask, value, source >= (lane & -width) + width ? lane : source, where);
}

#define TAPER_SIMT_REDUCE(name, T, reduction)                                                          \
  inline T name(unsigned mask, T value, TAPER_SIMT_HERE) {                                             \
    return static_cast<T>(taper::simt::reduce(mask, value, taper::simt::Reduction::reduction, where)); \
  }
TAPER_SIMT_REDUCE(__reduce_add_sync, int, kAdd)
TAPER_SIMT_REDUCE(__reduce_add_sync, unsigned, kAdd)
TAPER_SIMT_REDUCE(__reduce_min_sync, int, kMin)
TAPER_SIMT_REDUCE(__reduce_min_sync, unsigned, kMin)
TAPER_SIMT_REDUCE(__reduce_max_sync, int, kMax)
TAPER_SIMT_REDUCE(__reduce_max_sync, unsigned, kMax)
TAPER_SIMT_REDUCE(__reduce_and_sync, unsigned, kAnd)
TAPER_SIMT_REDUCE(__reduce_or_sync, unsigned, kOr)
TAPER_SIMT_REDUCE(__reduce_xor_sync, unsigned, kXor)
#undef TAPER_SIMT_REDUCE
#undef TAPER_SIMT_HERE
