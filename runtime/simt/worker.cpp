#include "runtime/simt/worker.h"

#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>

#include "runtime/error.h"
#include "runtime/simt/check/checker.h"
#include "runtime/simt/index.h"
#include "runtime/simt/symbols.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

constinit thread_local uint3 threadIdx{};
constinit thread_local uint3 blockIdx{};
constinit thread_local dim3 blockDim{};
constinit thread_local dim3 gridDim{};

namespace taper::simt {

namespace {

bool same_place(Where a, Where b) { return a.line() == b.line() && a.file_name() == b.file_name(); }

std::string text(uint3 index) { return fmt::format("({},{},{})", index.x, index.y, index.z); }

std::string text(Where where) { return fmt::format("{}:{}", where.file_name(), where.line()); }

}  // namespace

void Worker::Free::operator()(void* memory) const { std::free(memory); }

Worker::~Worker() { allow_shared(kMaximumSharedBytes); }

constinit thread_local Worker* Worker::current_ = nullptr;

Worker& Worker::make() {
  thread_local std::unique_ptr<Worker> owner(new Worker);
  return *(current_ = owner.get());
}

Worker::Worker() : copies_(kMaximumThreads), shared_(std::aligned_alloc(1024, kMaximumSharedBytes)) {}

std::string Worker::run_block(const Launch& launch, uint3 block_index) {
  begin(launch, block_index);
  uint32_t first = take();
  resume(first);
  if constexpr (kChecked) Checker::instance().begin_block(shared_.get());
  switch_to(&host_, context_of(first));
  launch_ = nullptr;
  if (error_.empty()) return {};
  // Suspended threads will never end: their fibers begin anew.
  for (PendingCopies& copies : copies_) copies.clear();
  idle_.clear();
  for (auto& fiber : fibers_) {
    fiber->prepare(fiber_main);
    idle_.push_back(fiber.get());
  }
  // Moved out, so that they hold no memory which the next failure would leave on an abandoned stack.
  const std::string message = std::move(error_), place = std::move(error_place_);
  return fmt::format("{}, {} (block {}, thread {}): {}", launch.symbol->name, place, text(blockIdx),
                     text(threadIdx), message);
}

void Worker::begin(const Launch& launch, uint3 block_index) {
  launch_ = &launch;
  random_order_ = schedule().order == Schedule::Order::kRandom;
  blockIdx = block_index;
  blockDim = launch.block;
  gridDim = launch.grid;
  threads_ = launch.block.x * launch.block.y * launch.block.z;
  done_ = arrived_ = generation_ = 0;
  sum_ = {};
  ready_warps_ = 0;
  uint3 index{};
  for (uint32_t thread = 0; thread < threads_; ++thread) {
    thread_of_[thread] = {.context = nullptr, .index = index, .state = State::kNew};
    if (++index.x < launch.block.x) continue;
    index.x = 0;
    if (++index.y < launch.block.y) continue;
    index.y = 0;
    ++index.z;
  }
  for (Warp& warp : warps_) warp.ready = warp.open = 0;
  set_all_ready();
  // NaN, and an index out of every range.
  allow_shared(launch.shared_bytes);
  std::memset(shared_.get(), 0xFF, launch.shared_bytes);
  for (const SharedArray& array : launch.symbol->shared)
    std::memset(reinterpret_cast<std::byte*>(&threadIdx) + array.offset, 0xFF, array.bytes);
  thread_ = 0;
}

// AddressSanitizer tells of accesses beyond what the launch gives.
void Worker::allow_shared([[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  auto* shared = static_cast<std::byte*>(shared_.get());
  __asan_unpoison_memory_region(shared, bytes);
  __asan_poison_memory_region(shared + bytes, kMaximumSharedBytes - bytes);
#endif
}

void Worker::set_ready(uint32_t warp, uint32_t lanes) {
  warps_[warp].ready |= lanes;
  if (warps_[warp].ready != 0) ready_warps_ |= 1U << warp;
}

void Worker::set_all_ready() {
  for (uint32_t first = 0; first < threads_; first += kWarp)
    set_ready(first / kWarp, threads_ - first >= kWarp ? ~0U : (1U << (threads_ - first)) - 1);
}

// The next thread to run, of the same warp if one can, else of the next warp; kNone when none can.
uint32_t Worker::take() {
  if (ready_warps_ == 0) return kNone;
  if (random_order_) return take_any();
  uint32_t warp = thread_ / kWarp;
  if (warps_[warp].ready == 0)
    warp = (warp + static_cast<uint32_t>(std::countr_zero(std::rotr(ready_warps_, static_cast<int>(warp))))) %
           kMaximumWarps;
  uint32_t& ready = warps_[warp].ready;
  auto lane = static_cast<uint32_t>(std::countr_zero(ready));
  ready &= ready - 1;
  if (ready == 0) ready_warps_ &= ~(1U << warp);
  return warp * kWarp + lane;
}

// A random lane, mostly of the same warp, so that at times one warp runs far ahead of the others.
uint32_t Worker::take_any() {
  uint64_t bits = choices_.bits();
  uint32_t warp = thread_ / kWarp;
  auto first_from = [](uint32_t set, uint64_t start) {
    auto first = static_cast<uint32_t>(start % 32);
    return (first + static_cast<uint32_t>(std::countr_zero(std::rotr(set, static_cast<int>(first))))) % 32;
  };
  if (warps_[warp].ready == 0 || bits % 8 == 0) warp = first_from(ready_warps_, bits >> 8);
  uint32_t& ready = warps_[warp].ready;
  uint32_t lane = first_from(ready, bits >> 16);
  ready &= ~(1U << lane);
  if (ready == 0) ready_warps_ &= ~(1U << warp);
  return warp * kWarp + lane;
}

void Worker::resume(uint32_t thread) {
  thread_ = thread;
  threadIdx = thread_of_[thread].index;
}

// Where `thread` continues, on a fiber of its own from now on if it is new.
Context Worker::context_of(uint32_t thread) {
  Thread& next = thread_of_[thread];
  if (next.state != State::kNew) return next.context;
  if (idle_.empty()) {
    fibers_.push_back(std::make_unique<Fiber>(static_cast<int64_t>(fibers_.size())));
    fibers_.back()->prepare(fiber_main);
    idle_.push_back(fibers_.back().get());
  }
  running_ = idle_.back();
  idle_.pop_back();
  return running_->context;
}

// A fiber runs one new thread after another until one must wait: a kernel without barriers needs a single
// one.
void Worker::fiber_main() {
  entered();
  Worker& worker = of_this_thread();
  for (;;) {
    Fiber* self = worker.running_;
    for (;;) {
      worker.launch_->call(worker.launch_->kernel, worker.launch_->arguments.get());
      worker.copies().land_all();
      worker.thread_of_[worker.thread_].state = State::kDone;
      ++worker.done_;
      uint32_t next = worker.take();
      if (next == kNone && worker.done_ != worker.threads_) worker.stuck();
      if (next != kNone) worker.resume(next);
      if (next != kNone && worker.thread_of_[next].state == State::kNew) continue;
      worker.idle_.push_back(self);
      switch_to(&self->context, next == kNone ? worker.host_ : worker.thread_of_[next].context);
      break;
    }
  }
}

// What is on the path of every wait has small frames and no messages: all threads' stacks share the first
// cache.
[[gnu::always_inline]] inline void Worker::suspend(State state) {
  Thread& self = thread_of_[thread_];
  self.state = state;
  uint32_t next = take();
  if (next == kNone) stuck();
  resume(next);
  switch_to(&self.context, context_of(next));
  self.state = State::kRunnable;
}

int Worker::sync_threads(Where where, int value) {
  if (arrived_ == 0) barrier_ = where;
  if (!same_place(barrier_, where)) fail_elsewhere(barrier_, where);
  int parity = generation_ % 2;
  sum_[parity] += value;
  if (++arrived_ < threads_) {
    suspend(State::kBarrier);
    return sum_[parity];
  }
  if constexpr (kChecked) Checker::instance().barrier();
  arrived_ = 0;
  ++generation_;
  sum_[1 - parity] = 0;
  set_all_ready();
  warp().ready &= ~(1U << lane());
  if (warp().ready == 0) ready_warps_ &= ~(1U << (thread_ / kWarp));
  return sum_[parity];
}

void Worker::meet(uint32_t mask, Collective collective, void* operands, Where where) {
  Warp& warp = this->warp();
  uint32_t self = 1U << lane();
  if ((mask & self) == 0) fail_outside(mask, where);
  warp.operands[lane()] = operands;
  int number = 0;
  while (number < warp.open && warp.meetings[number].mask != mask) ++number;
  Meeting& meeting = warp.meetings[number];
  if (number == warp.open) {
    meeting = {.mask = mask, .arrived = 0, .collective = collective, .where = where};
    ++warp.open;
  }
  if (meeting.collective != collective || !same_place(meeting.where, where))
    fail_elsewhere(meeting.where, where);
  meeting.arrived |= self;
  if (meeting.arrived != mask) {
    suspend(State::kMeeting);
    return;
  }
  if (const char* wrong = collective(warp.operands, mask)) fail(wrong, where);
  if constexpr (kChecked) Checker::instance().meet(thread_ / kWarp);
  meeting = warp.meetings[--warp.open];
  set_ready(thread_ / kWarp, mask & ~self);
}

void Worker::fail_elsewhere(Where there, Where where) {
  std::string message =
      fmt::format("others wait at {}: all threads of a block, or all lanes of a mask, must meet in one place",
                  text(there));
  fail(std::move(message), where);
}

void Worker::fail_outside(uint32_t mask, Where where) {
  fail(fmt::format("lane {} is not in its own mask {:#010x}", lane(), mask), where);
}

// What a thread that cannot run waits for, and where; the place is left as it is for one that has exited.
std::string Worker::describe(uint32_t thread, Where& where) const {
  if (thread_of_[thread].state == State::kDone) return "exited";
  if (thread_of_[thread].state == State::kBarrier) {
    where = barrier_;
    return fmt::format("in the barrier at {}", text(where));
  }
  const Warp& warp = warps_[thread / kWarp];
  int number = 0;
  while ((warp.meetings[number].arrived >> thread % kWarp & 1) == 0) ++number;
  where = warp.meetings[number].where;
  return fmt::format("for the lanes {:#010x} at {}", warp.meetings[number].mask, text(where));
}

void Worker::stuck() {
  Where where;
  fail(describe_all(where), where);
}

std::string Worker::describe_all(Where& where) const {
  std::map<std::string, std::vector<uint32_t>> groups;
  for (uint32_t thread = 0; thread < threads_; ++thread) groups[describe(thread, where)].push_back(thread);
  std::string message = "no thread of the block can go on:";
  const char* separator = " ";
  for (const auto& [state, threads] : groups) {
    bool several = threads.size() > 1;
    const char* verb = state == "exited" ? "" : several ? "wait " : "waits ";
    message +=
        fmt::format("{}{} thread{} ({}{}) {}{}", separator, threads.size(), several ? "s" : "",
                    several ? "the first is " : "", text(thread_of_[threads.front()].index), verb, state);
    separator = "; ";
  }
  return message;
}

void Worker::fail(std::string message, Where where) { fail(std::move(message), text(where)); }

void Worker::fail(std::string message, std::string place) {
  error_ = std::move(message);
  error_place_ = std::move(place);
  Context abandoned;
  switch_to(&abandoned, host_);
  std::abort();  // nobody resumes an abandoned thread
}

}  // namespace taper::simt
