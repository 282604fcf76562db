#include "runtime/simt/async_copy.h"

#include <cstring>

#include "runtime/simt/worker.h"

namespace taper::simt {

namespace {

void land_one(const PendingCopies::Copy& copy) {
  if (copy.global != nullptr)
    std::memcpy(copy.shared, copy.global, static_cast<size_t>(copy.bytes));
  else
    std::memset(copy.shared, 0, static_cast<size_t>(copy.bytes));
}

}  // namespace

void PendingCopies::land(int64_t groups) {
  if (copies_.empty()) return;
  std::erase_if(copies_, [&](const Copy& copy) {
    if (copy.group >= groups) return false;
    land_one(copy);
    return true;
  });
}

void PendingCopies::land_some() {
  Choices& choices = Worker::of_this_thread().choices();
  std::erase_if(copies_, [&](const Copy& copy) {
    if (!choices.one_in(4)) return false;
    land_one(copy);
    return true;
  });
}

void PendingCopies::clear() {
  copies_.clear();
  group_ = 0;
}

void* dynamic_shared() { return Worker::of_this_thread().shared(); }

void copy_async(void* shared, const void* global, int bytes, bool valid, Where where) {
  Worker& worker = Worker::of_this_thread();
  auto misaligned = [&](const void* address) { return reinterpret_cast<uintptr_t>(address) % bytes != 0; };
  if (misaligned(shared) || (valid && misaligned(global)))
    worker.fail("cp.async of an address that is not aligned to the bytes it copies", where);
  PendingCopies::Copy copy{.shared = static_cast<std::byte*>(shared),
                           .global = valid ? static_cast<const std::byte*>(global) : nullptr,
                           .bytes = bytes,
                           .group = 0};
  if (schedule().copies == Schedule::Copies::kEarly) return land_one(copy);
  worker.copies().begin(copy);
  if (schedule().copies == Schedule::Copies::kRandom) worker.copies().land_some();
}

void commit_copies() { Worker::of_this_thread().copies().commit(); }

void wait_for_copies(int pending) { Worker::of_this_thread().copies().wait(pending); }

}  // namespace taper::simt
