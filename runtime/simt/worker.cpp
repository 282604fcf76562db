#include "runtime/simt/worker.h"

#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>

#include "runtime/error.h"
#include "runtime/simt/index.h"

constinit thread_local uint3 threadIdx{};
constinit thread_local uint3 blockIdx{};
constinit thread_local dim3 blockDim{};
constinit thread_local dim3 gridDim{};

namespace taper::simt {

namespace {

thread_local constinit Worker* worker_of_this_thread = nullptr;

bool same_place(Where a, Where b) { return a.line() == b.line() && a.file_name() == b.file_name(); }

std::string text(uint3 index) { return fmt::format("({},{},{})", index.x, index.y, index.z); }

std::string text(Where where) { return fmt::format("{}:{}", where.file_name(), where.line()); }

}  // namespace

void Worker::Free::operator()(void* memory) const { std::free(memory); }

Worker& Worker::of_this_thread() {
  if (worker_of_this_thread == nullptr) {
    thread_local std::unique_ptr<Worker> owner(new Worker);
    worker_of_this_thread = owner.get();
  }
  return *worker_of_this_thread;
}

Worker::Worker() : thread_of_(kMaximumThreads), shared_(std::aligned_alloc(1024, kMaximumSharedBytes)) {}

std::string Worker::run_block(const Launch& launch, uint3 block_index) {
  begin(launch, block_index);
  int first = take();
  resume(first);
  taper_simt_switch(&host_, context_of(first));
  if (!error_.empty()) {  // suspended threads will never end: their fibers begin anew
    idle_.clear();
    for (auto& fiber : fibers_) {
      fiber->prepare(fiber_main);
      idle_.push_back(fiber.get());
    }
  }
  launch_ = nullptr;
  return std::exchange(error_, {});
}

void Worker::begin(const Launch& launch, uint3 block_index) {
  launch_ = &launch;
  blockIdx = block_index;
  blockDim = launch.block;
  gridDim = launch.grid;
  threads_ = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
  done_ = arrived_ = generation_ = 0;
  sum_ = {};
  ready_warps_ = 0;
  uint3 index{};
  for (int thread = 0; thread < threads_; ++thread) {
    thread_of_[thread] = {.context = nullptr, .index = index, .state = State::kNew, .mask = 0, .where = {}};
    if (++index.x < launch.block.x) continue;
    index.x = 0;
    if (++index.y < launch.block.y) continue;
    index.y = 0;
    ++index.z;
  }
  for (int first = 0, warp = 0; first < threads_; first += kWarp, ++warp) {
    warps_[warp].ready = warps_[warp].open = 0;
    set_ready(warp, threads_ - first >= kWarp ? ~0U : (1U << (threads_ - first)) - 1);
  }
  std::memset(shared_.get(), 0xFF, launch.shared_bytes);  // NaN, and an index out of every range
  thread_ = 0;
}

void Worker::set_ready(int warp, uint32_t lanes) {
  warps_[warp].ready |= lanes;
  if (warps_[warp].ready != 0) ready_warps_ |= 1U << warp;
}

// The next thread to run, of the same warp if one can, else of the next warp; -1 when none can.
int Worker::take() {
  if (ready_warps_ == 0) return -1;
  int warp = thread_ / kWarp;
  warp = (warp + std::countr_zero(std::rotr(ready_warps_, warp))) % kMaximumWarps;
  uint32_t& ready = warps_[warp].ready;
  int lane = std::countr_zero(ready);
  ready &= ready - 1;
  if (ready == 0) ready_warps_ &= ~(1U << warp);
  return warp * kWarp + lane;
}

void Worker::resume(int thread) {
  thread_ = thread;
  threadIdx = thread_of_[thread].index;
}

// Where `thread` continues, on a fiber of its own from now on if it is new.
Context Worker::context_of(int thread) {
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
  Worker& worker = of_this_thread();
  for (;;) {
    Fiber* self = worker.running_;
    for (;;) {
      worker.launch_->call(worker.launch_->kernel, worker.launch_->arguments.get());
      worker.thread_of_[worker.thread_].state = State::kDone;
      ++worker.done_;
      int next = worker.take();
      if (next < 0 && worker.done_ != worker.threads_) worker.stuck();
      if (next >= 0) worker.resume(next);
      if (next >= 0 && worker.thread_of_[next].state == State::kNew) continue;
      worker.idle_.push_back(self);
      taper_simt_switch(&self->context, next < 0 ? worker.host_ : worker.thread_of_[next].context);
      break;
    }
  }
}

void Worker::suspend(State state, Where where) {
  Thread& self = thread_of_[thread_];
  self.state = state;
  self.where = where;
  int next = take();
  if (next < 0) stuck();
  resume(next);
  taper_simt_switch(&self.context, context_of(next));
  self.state = State::kRunnable;
}

int Worker::sync_threads(Where where, int value) {
  if (arrived_ == 0) barrier_ = where;
  if (!same_place(barrier_, where))
    fail(fmt::format("other threads of the block wait in the barrier at {}: all must meet in the same one",
                     text(barrier_)),
         where);
  int parity = generation_ % 2;
  sum_[parity] += value;
  if (++arrived_ < threads_) {
    suspend(State::kBarrier, where);
    return sum_[parity];
  }
  arrived_ = 0;
  ++generation_;
  sum_[1 - parity] = 0;
  for (int first = 0, warp = 0; first < threads_; first += kWarp, ++warp)
    set_ready(warp, threads_ - first >= kWarp ? ~0U : (1U << (threads_ - first)) - 1);
  warps_[thread_ / kWarp].ready &= ~(1U << lane());
  if (warps_[thread_ / kWarp].ready == 0) ready_warps_ &= ~(1U << (thread_ / kWarp));
  return sum_[parity];
}

void Worker::meet(uint32_t mask, Collective collective, void* operands, Where where) {
  Warp& warp = warps_[thread_ / kWarp];
  uint32_t self = 1U << lane();
  if ((mask & self) == 0) fail(fmt::format("lane {} is not in its own mask {:#010x}", lane(), mask), where);
  warp.operands[lane()] = operands;
  int number = 0;
  while (number < warp.open && warp.meetings[number].mask != mask) ++number;
  Meeting& meeting = warp.meetings[number];
  if (number == warp.open) {
    meeting = {.mask = mask, .arrived = 0, .collective = collective, .where = where};
    ++warp.open;
  }
  if (meeting.collective != collective || !same_place(meeting.where, where))
    fail(fmt::format("lanes of the same mask {:#010x} wait at {}: all must meet in the same place", mask,
                     text(meeting.where)),
         where);
  meeting.arrived |= self;
  if (meeting.arrived != mask) {
    thread_of_[thread_].mask = mask;
    suspend(State::kMeeting, where);
    return;
  }
  if (const char* wrong = collective(warp.operands, mask)) fail(wrong, where);
  meeting = warp.meetings[--warp.open];
  set_ready(thread_ / kWarp, mask & ~self);
}

std::string Worker::describe(int thread) const {
  const Thread& one = thread_of_[thread];
  if (one.state == State::kBarrier) return fmt::format("in the barrier at {}", text(one.where));
  if (one.state == State::kMeeting)
    return fmt::format("for the lanes {:#010x} at {}", one.mask, text(one.where));
  return "exited";
}

void Worker::stuck() {
  std::map<std::string, std::vector<int>> groups;
  for (int thread = 0; thread < threads_; ++thread) groups[describe(thread)].push_back(thread);
  std::string message = "no thread of the block can go on:";
  const char* separator = " ";
  Where where;
  for (const auto& [state, threads] : groups) {
    message +=
        fmt::format("{}{} thread{} ({}{}) {}{}", separator, threads.size(), threads.size() > 1 ? "s" : "",
                    threads.size() > 1 ? "the first is " : "", text(thread_of_[threads.front()].index),
                    state == "exited"    ? ""
                    : threads.size() > 1 ? "wait "
                                         : "waits ",
                    state);
    if (thread_of_[threads.front()].state != State::kDone) where = thread_of_[threads.front()].where;
    separator = "; ";
  }
  fail(message, where);
}

void Worker::fail(const std::string& message, Where where) {
  error_ = fmt::format("{} (block {}, thread {}): {}", text(where), text(blockIdx), text(threadIdx), message);
  Context abandoned;
  taper_simt_switch(&abandoned, host_);
  std::abort();  // nobody resumes an abandoned thread
}

}  // namespace taper::simt
