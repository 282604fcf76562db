#include "runtime/simt/queue.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <set>
#include <utility>

#include "runtime/simt/capture.h"
#include "runtime/simt/error.h"
#include "runtime/simt/schedule.h"

namespace taper::simt {

namespace {

using Lock = std::unique_lock<std::mutex>;

/// All streams. The mutex guards what is in them and in marks, and is free while work is done.
struct Streams {
  std::mutex mutex;
  std::condition_variable changed;
  std::set<CUstream_st*> live;
  CUstream_st legacy;  // the null stream
  Choices choices{schedule().seed};
};

Streams& streams() {
  static Streams streams;
  return streams;
}

bool late() { return schedule().streams == Schedule::Streams::kLate; }

CUstream_st* find(cudaStream_t stream) {
  if (stream == nullptr || stream == cudaStreamLegacy) return &streams().legacy;
  return streams().live.contains(stream) ? stream : nullptr;
}

bool can_step(const CUstream_st& stream) {
  return !stream.busy && !stream.items.empty() &&
         (stream.items.front().wait == nullptr || stream.items.front().wait->done);
}

void step(Lock& lock, CUstream_st& stream) {
  Item item = std::move(stream.items.front());
  stream.items.pop_front();
  if (item.work) {
    stream.busy = true;
    lock.unlock();
    std::string failure = item.work();
    lock.lock();
    stream.busy = false;
    if (stream.failure.empty()) stream.failure = std::move(failure);
  }
  if (item.reach) {
    item.reach->done = true;
    item.reach->time = std::chrono::steady_clock::now();
  }
  streams().changed.notify_all();
}

// Under a late schedule work of other streams may come before.
void step_elsewhere(Lock& lock) {
  Streams& all = streams();
  while (late() && all.choices.one_in(2)) {
    std::vector<CUstream_st*> able;
    for (CUstream_st* stream : all.live)
      if (can_step(*stream)) able.push_back(stream);
    if (able.empty()) return;
    step(lock, *able[all.choices.below(able.size())]);
  }
}

// Brings a stream that is not done one step on. What it waits for was put into its stream before it, so that
// this ends.
void advance(Lock& lock, CUstream_st& stream) {
  if (stream.busy) return streams().changed.wait(lock);
  if (can_step(stream)) return step(lock, stream);
  advance(lock, *stream.items.front().wait->stream);
}

void drain(Lock& lock, CUstream_st& stream) {
  ++stream.waiting;  // its owner may destroy it, but not while others wait here
  while (stream.busy || !stream.items.empty()) {
    step_elsewhere(lock);
    if (stream.busy || !stream.items.empty()) advance(lock, stream);
  }
  if (--stream.waiting == 0) streams().changed.notify_all();
}

void reach(Lock& lock, const Mark& mark) {
  while (!mark.done) {
    step_elsewhere(lock);
    if (!mark.done) advance(lock, *mark.stream);
  }
}

cudaError_t take_failure(CUstream_st& stream) {
  if (stream.failure.empty()) return cudaSuccess;
  return remember_failure(std::exchange(stream.failure, {}));
}

bool pending(const CUstream_st& stream) { return stream.busy || !stream.items.empty(); }

// A step at a time, for other threads may add streams meanwhile, and destroy those that they have drained.
void drain_all(Lock& lock) {
  drain(lock, streams().legacy);
  while (true) {
    step_elsewhere(lock);
    auto found = std::find_if(streams().live.begin(), streams().live.end(),
                              [](const CUstream_st* stream) { return pending(*stream); });
    if (found == streams().live.end()) return;
    advance(lock, **found);
  }
}

// Puts an item into a stream. The null stream's work comes after that of all streams that wait for it, and is
// never late.
cudaError_t push(Lock& lock, CUstream_st& stream, Item item) {
  bool legacy = &stream == &streams().legacy;
  if (legacy) {
    const std::vector<CUstream_st*> before(streams().live.begin(), streams().live.end());
    for (CUstream_st* other : before)
      while (streams().live.contains(other) && other->waits_for_legacy && pending(*other))
        advance(lock, *other);
  }
  stream.items.push_back(std::move(item));
  if (legacy || !late()) {
    drain(lock, stream);
    return take_failure(stream);
  }
  return cudaSuccess;
}

}  // namespace

cudaError_t submit(cudaStream_t handle, Work work, bool waits) {
  Lock lock(streams().mutex);
  CUstream_st* stream = find(handle);
  if (stream == nullptr) return remember(cudaErrorInvalidResourceHandle);
  if (stream->capture) {
    append(*stream, std::move(work));
    return cudaSuccess;
  }
  if (stream == &streams().legacy && capture_forbids_waiting())
    return remember(cudaErrorStreamCaptureImplicit);
  auto mark = waits ? std::make_shared<Mark>(Mark{.stream = stream}) : nullptr;
  if (cudaError_t error = push(lock, *stream, {.work = std::move(work), .wait = nullptr, .reach = mark}))
    return error;
  if (!waits) return cudaSuccess;
  reach(lock, *mark);
  return take_failure(*stream);
}

cudaError_t record(cudaStream_t handle, CUevent_st& event) {
  Lock lock(streams().mutex);
  CUstream_st* stream = find(handle);
  if (stream == nullptr) return remember(cudaErrorInvalidResourceHandle);
  event.capture = stream->capture;
  event.last = stream->last;
  event.mark = nullptr;
  if (stream->capture) return cudaSuccess;
  event.mark = std::make_shared<Mark>(Mark{.stream = stream});
  return push(lock, *stream, {.work = {}, .wait = nullptr, .reach = event.mark});
}

cudaError_t wait_for(cudaStream_t handle, const CUevent_st& event) {
  Lock lock(streams().mutex);
  CUstream_st* stream = find(handle);
  if (stream == nullptr) return remember(cudaErrorInvalidResourceHandle);
  if (event.capture || stream->capture) return remember(join(*stream, event));
  if (event.mark == nullptr || event.mark->done) return cudaSuccess;
  return push(lock, *stream, {.work = {}, .wait = event.mark, .reach = nullptr});
}

cudaError_t synchronize(cudaStream_t handle) {
  Lock lock(streams().mutex);
  CUstream_st* stream = find(handle);
  if (stream == nullptr) return remember(cudaErrorInvalidResourceHandle);
  if (stream->capture) return remember(cudaErrorStreamCaptureUnsupported);
  drain(lock, *stream);
  return take_failure(*stream);
}

cudaError_t synchronize_all() {
  if (capture_forbids_waiting()) return remember(cudaErrorStreamCaptureUnsupported);
  Lock lock(streams().mutex);
  drain_all(lock);
  cudaError_t error = take_failure(streams().legacy);
  for (CUstream_st* stream : streams().live)
    if (cudaError_t failed = take_failure(*stream)) error = failed;
  return error;
}

cudaError_t synchronize(const std::shared_ptr<Mark>& mark) {
  if (mark == nullptr) return cudaSuccess;
  Lock lock(streams().mutex);
  if (mark->done) return cudaSuccess;
  CUstream_st& stream = *mark->stream;
  reach(lock, *mark);
  return take_failure(stream);
}

cudaError_t query(cudaStream_t handle) {
  Lock lock(streams().mutex);
  CUstream_st* stream = find(handle);
  if (stream == nullptr) return remember(cudaErrorInvalidResourceHandle);
  if (stream->capture) return remember(cudaErrorStreamCaptureUnsupported);
  if (!stream->busy && stream->items.empty()) return take_failure(*stream);
  advance(lock, *stream);
  return cudaErrorNotReady;
}

cudaError_t query(const std::shared_ptr<Mark>& mark) {
  if (mark == nullptr) return cudaSuccess;
  Lock lock(streams().mutex);
  if (mark->done) return cudaSuccess;
  advance(lock, *mark->stream);
  return cudaErrorNotReady;
}

cudaStream_t create_stream(bool waits_for_legacy) {
  auto* stream = new CUstream_st;
  stream->waits_for_legacy = waits_for_legacy;
  cudaGetDevice(&stream->device);
  Lock lock(streams().mutex);
  streams().live.insert(stream);
  return stream;
}

cudaError_t destroy_stream(cudaStream_t handle) {
  Lock lock(streams().mutex);
  CUstream_st* stream = find(handle);
  if (stream == nullptr || stream == &streams().legacy) return remember(cudaErrorInvalidResourceHandle);
  if (stream->capture) return remember(cudaErrorStreamCaptureUnsupported);
  drain(lock, *stream);
  cudaError_t error = take_failure(*stream);
  streams().live.erase(stream);
  streams().changed.wait(lock, [&] { return stream->waiting == 0; });
  delete stream;
  return error;
}

cudaError_t begin_capture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  Lock lock(streams().mutex);
  CUstream_st* stream = find(handle);
  if (stream == nullptr) return remember(cudaErrorInvalidResourceHandle);
  if (stream == &streams().legacy) return remember(cudaErrorStreamCaptureUnsupported);
  return remember(start(*stream, mode));
}

cudaError_t end_capture(cudaStream_t handle, Graph& graph) {
  Lock lock(streams().mutex);
  CUstream_st* stream = find(handle);
  if (stream == nullptr) return remember(cudaErrorInvalidResourceHandle);
  return remember(finish(*stream, graph));
}

bool of_current_device(cudaStream_t handle) {
  int device = 0;
  cudaGetDevice(&device);
  Lock lock(streams().mutex);
  CUstream_st* stream = find(handle);
  return stream == nullptr || stream == &streams().legacy || stream->device == device;
}

bool captures(cudaStream_t handle) {
  Lock lock(streams().mutex);
  CUstream_st* stream = find(handle);
  return stream != nullptr && stream->capture != nullptr;
}

void reseed_streams() {
  Lock lock(streams().mutex);
  streams().choices = Choices(schedule().seed);
}

}  // namespace taper::simt
