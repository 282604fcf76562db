#include "runtime/simt/collectives.h"

#include <algorithm>
#include <atomic>

#include "runtime/simt/check/checker.h"
#include "runtime/simt/intrinsics.h"
#include "runtime/simt/worker.h"

namespace taper::simt {

namespace {

struct Vote {
  bool vote;
  uint32_t result;
};

struct Shuffle {
  uint64_t value;
  int source;
  uint64_t result;
};

struct Reduce {
  int64_t value;
  Reduction reduction;
  int64_t result;
};

// Calls visit(lane) for each lane of the mask.
template <typename Visit>
void for_lanes(uint32_t mask, Visit visit) {
  for (; mask != 0; mask &= mask - 1) visit(std::countr_zero(mask));
}

const char* sync(void* const (&)[kWarp], uint32_t mask) {
  if constexpr (kChecked) Checker::instance().sync_warp(Worker::of_this_thread().thread() / kWarp, mask);
  return nullptr;
}

const char* vote(void* const (&operands)[kWarp], uint32_t mask) {
  uint32_t result = 0;
  for_lanes(mask, [&](int i) {
    if (static_cast<Vote*>(operands[i])->vote) result |= 1U << i;
  });
  for_lanes(mask, [&](int i) { static_cast<Vote*>(operands[i])->result = result; });
  return nullptr;
}

const char* exchange(void* const (&operands)[kWarp], uint32_t mask) {
  const char* wrong = nullptr;
  for_lanes(mask, [&](int i) {
    auto* own = static_cast<Shuffle*>(operands[i]);
    if ((mask >> own->source & 1) == 0)
      wrong = "a shuffle reads from a lane that is not in the mask";
    else
      own->result = static_cast<Shuffle*>(operands[own->source])->value;
  });
  return wrong;
}

int64_t combine(int64_t a, int64_t b, Reduction reduction) {
  switch (reduction) {
    case Reduction::kAdd:
      return a + b;
    case Reduction::kMin:
      return std::min(a, b);
    case Reduction::kMax:
      return std::max(a, b);
    case Reduction::kAnd:
      return a & b;
    case Reduction::kOr:
      return a | b;
    case Reduction::kXor:
      break;
  }
  return a ^ b;
}

const char* reduce_all(void* const (&operands)[kWarp], uint32_t mask) {
  int first = std::countr_zero(mask);
  int64_t result = static_cast<Reduce*>(operands[first])->value;
  for_lanes(mask & (mask - 1), [&](int i) {
    auto* own = static_cast<Reduce*>(operands[i]);
    result = combine(result, own->value, own->reduction);
  });
  for_lanes(mask, [&](int i) { static_cast<Reduce*>(operands[i])->result = result; });
  return nullptr;
}

}  // namespace

int lane() { return Worker::of_this_thread().lane(); }

int sync_threads(int value, Where where) { return Worker::of_this_thread().sync_threads(where, value); }

void sync_warp(uint32_t mask, Where where) { Worker::of_this_thread().meet(mask, sync, nullptr, where); }

uint32_t ballot(uint32_t mask, bool brought, Where where) {
  Vote operands{brought, 0};
  Worker::of_this_thread().meet(mask, vote, &operands, where);
  return operands.result;
}

uint64_t shuffle(uint32_t mask, uint64_t value, int source, Where where) {
  Shuffle operands{value, source, 0};
  Worker::of_this_thread().meet(mask, exchange, &operands, where);
  return operands.result;
}

int64_t reduce(uint32_t mask, int64_t value, Reduction reduction, Where where) {
  Reduce operands{value, reduction, 0};
  Worker::of_this_thread().meet(mask, reduce_all, &operands, where);
  return operands.result;
}

void fence() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if constexpr (kChecked) Checker::instance().fence();
}

void trap(Where where) { Worker::of_this_thread().fail("__trap() was called", where); }

}  // namespace taper::simt
