#include "runtime/simt/async_copy.h"

#include <cstring>

#include "runtime/simt/check/checker.h"
#include "runtime/simt/worker.h"

namespace taper::simt {

namespace {

void land_one(PendingCopies::Copy& copy) {
  copy.landed = true;
  if (copy.global != nullptr)
    std::memcpy(copy.shared, copy.global, static_cast<size_t>(copy.bytes));
  else
    std::memset(copy.shared, 0, static_cast<size_t>(copy.bytes));
}

}  // namespace

void PendingCopies::begin(Copy copy) {
  copy.group = group_;
  copies_.push_back(copy);
}

void PendingCopies::land(int64_t groups) {
  if (copies_.empty()) return;
  std::erase_if(copies_, [&](Copy& copy) {
    if (copy.group >= groups) return false;
    if (!copy.landed) land_one(copy);
    if constexpr (kChecked)
      Checker::instance().end_copy(copy.shared, static_cast<uint32_t>(copy.bytes), copy.where);
    return true;
  });
}

void PendingCopies::land_some() {
  Choices& choices = Worker::of_this_thread().choices();
  for (Copy& copy : copies_)
    if (!copy.landed && choices.one_in(4)) land_one(copy);
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
                           .group = 0,
                           .landed = false,
                           .where = where};
  if constexpr (kChecked)
    Checker::instance().begin_copy(copy.shared, copy.global, static_cast<uint32_t>(bytes), where);
  if (schedule().copies == Schedule::Copies::kEarly) {
    land_one(copy);
    if (!kChecked) return;  // else it is to be waited for all the same
  }
  worker.copies().begin(copy);
  if (schedule().copies == Schedule::Copies::kRandom) worker.copies().land_some();
}

void commit_copies() { Worker::of_this_thread().copies().commit(); }

void wait_for_copies(int pending) { Worker::of_this_thread().copies().wait(pending); }

}  // namespace taper::simt
