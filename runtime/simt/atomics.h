#pragma once
// CUDA's atomics on integers, relaxed as on the device. There are none on floating-point numbers: the order
// of their sums would not be determined.

#include <concepts>

namespace taper::simt {

template <typename T>
concept AtomicInteger =
    std::same_as<T, int> || std::same_as<T, unsigned> || std::same_as<T, unsigned long long>;

/// Replaces *address by update(*address) and returns what was there.
template <AtomicInteger T, typename Update>
T atomic_update(T* address, Update update) {
  T old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (
      !__atomic_compare_exchange_n(address, &old, update(old), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}

}  // namespace taper::simt

template <taper::simt::AtomicInteger T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return taper::simt::atomic_update(address, [=](T old) { return static_cast<T>(old + value); });
}

template <taper::simt::AtomicInteger T>
T atomicSub(T* address, std::type_identity_t<T> value) {
  return taper::simt::atomic_update(address, [=](T old) { return static_cast<T>(old - value); });
}

template <taper::simt::AtomicInteger T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return taper::simt::atomic_update(address, [=](T old) { return old < value ? old : value; });
}

template <taper::simt::AtomicInteger T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return taper::simt::atomic_update(address, [=](T old) { return old > value ? old : value; });
}

template <taper::simt::AtomicInteger T>
T atomicAnd(T* address, std::type_identity_t<T> value) {
  return taper::simt::atomic_update(address, [=](T old) { return old & value; });
}

template <taper::simt::AtomicInteger T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return taper::simt::atomic_update(address, [=](T old) { return old | value; });
}

template <taper::simt::AtomicInteger T>
T atomicXor(T* address, std::type_identity_t<T> value) {
  return taper::simt::atomic_update(address, [=](T old) { return old ^ value; });
}

template <taper::simt::AtomicInteger T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return taper::simt::atomic_update(address, [=](T) { return value; });
}

template <taper::simt::AtomicInteger T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return taper::simt::atomic_update(address, [=](T old) { return old == expected ? value : old; });
}

/// Counts up to `limit`, then begins at 0 again.
inline unsigned atomicInc(unsigned* address, unsigned limit) {
  return taper::simt::atomic_update(address, [=](unsigned old) { return old >= limit ? 0 : old + 1; });
}
