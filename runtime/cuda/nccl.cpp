#include "runtime/cuda/nccl.h"

#include <nccl.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "runtime/cuda/stream.h"
#include "runtime/library_sum.h"
#include "runtime/rank_watch.h"

namespace taper {

namespace {

constexpr auto kPollEvery = std::chrono::milliseconds(50);
// What a partner's error leaves the partner, or the watch of the ranks, to tell of the cause.
constexpr auto kGrace = std::chrono::seconds(3);

std::string describe(ncclResult_t code) {
  return fmt::format("{} ({})", ncclGetErrorString(code), ncclGetLastError(nullptr));
}

#define TAPER_NCCL(call)                                                                      \
  do {                                                                                        \
    const ncclResult_t taper_code = (call);                                                   \
    if (taper_code != ncclSuccess)                                                            \
      throw Failure("{}:{}: {} failed: {}", __FILE__, __LINE__, #call, describe(taper_code)); \
  } while (false)

ncclDataType_t nccl_type(DType type) {
  switch (type) {
    case DType::f32:
      return ncclFloat32;
    case DType::bf16:
      return ncclBfloat16;
    case DType::f64:
      return ncclFloat64;
    case DType::i32:
      return ncclInt32;
    case DType::i64:
      return ncclInt64;
    case DType::u8:
      return ncclUint8;
  }
  throw Failure("NCCL has no type for {}", name(type));
}

class NcclCommunicator final : public Communicator, public LibrarySum {
 public:
  NcclCommunicator(Communicator& host, int device);
  ~NcclCommunicator() override;

  void exchange(int64_t partner, std::span<const std::byte> send, std::span<std::byte> receive) override {
    {
      std::lock_guard lock(mutex_);
      require_sound();
    }
    host_.exchange(partner, send, receive);
  }
  void exchange_tensors(Stream& stream, int64_t partner, const Tensor& send, Tensor& receive) override;
  void sum(Stream& stream, Tensor& values) override;
  void note(const std::string& place) override { host_.note(place); }
  void note_wait(int64_t partner) override { host_.note_wait(partner); }
  void set_timeout(double seconds) override { host_.set_timeout(seconds); }
  [[noreturn]] void fail(const std::string& message, int exit_code) override {
    host_.fail(message, exit_code);
    std::abort();  // g++ 12 does not see that a virtual function never returns
  }
  void finish() override { host_.finish(); }

 private:
  void note_when_reached(cudaStream_t queue, int64_t partner);
  void watch();
  // To be called with mutex_ held. What comes out of an aborted transfer looks like any other values, so
  // nothing may go on after it.
  void require_sound() const {
    if (!failure_.empty()) throw Failure("{}", failure_);
  }

  Communicator& host_;
  std::mutex mutex_;  // guards what follows
  ncclComm_t comm_ = nullptr;
  std::string failure_;  // why comm_ was aborted
  bool stopping_ = false;
  std::condition_variable stop_;
  std::thread watch_;
};

NcclCommunicator::NcclCommunicator(Communicator& host, int device) : Communicator(host.place()), host_(host) {
  TAPER_CUDA(cudaSetDevice(device));
  ncclUniqueId id;
  if (first()) TAPER_NCCL(ncclGetUniqueId(&id));
  const std::string bytes = host.broadcast(std::string(id.internal, sizeof id.internal));
  std::memcpy(id.internal, bytes.data(), sizeof id.internal);
  TAPER_NCCL(ncclCommInitRank(&comm_, static_cast<int>(ranks()), id, static_cast<int>(rank())));
  watch_ = std::thread([this] { watch(); });
}

NcclCommunicator::~NcclCommunicator() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  watch_.join();
  if (comm_ == nullptr) return;
  // After an error a partner may never come to the end of what is under way.
  if (std::uncaught_exceptions() > 0)
    ncclCommAbort(comm_);
  else
    ncclCommDestroy(comm_);
}

void NcclCommunicator::exchange_tensors(Stream& stream, int64_t partner, const Tensor& send,
                                        Tensor& receive) {
  const cudaStream_t queue = cuda_stream(stream).handle();
  const int peer = static_cast<int>(partner);
  note_when_reached(queue, partner);
  {
    std::lock_guard lock(mutex_);
    require_sound();
    TAPER_NCCL(ncclGroupStart());
    TAPER_NCCL(
        ncclSend(send.data(), static_cast<size_t>(send.size()), nccl_type(send.dtype()), peer, comm_, queue));
    TAPER_NCCL(ncclRecv(receive.data(), static_cast<size_t>(receive.size()), nccl_type(receive.dtype()), peer,
                        comm_, queue));
    TAPER_NCCL(ncclGroupEnd());
  }
  note_when_reached(queue, -1);
}

void NcclCommunicator::sum(Stream& stream, Tensor& values) {
  const cudaStream_t queue = cuda_stream(stream).handle();
  note_when_reached(queue, kEveryRank);
  {
    std::lock_guard lock(mutex_);
    require_sound();
    TAPER_NCCL(ncclAllReduce(values.data(), values.data(), static_cast<size_t>(values.size()),
                             nccl_type(values.dtype()), ncclSum, comm_, queue));
  }
  note_when_reached(queue, -1);
}

// Several transfers may be queued, and the stream waits for one of them at a time.
void NcclCommunicator::note_when_reached(cudaStream_t queue, int64_t partner) {
  struct Note {
    NcclCommunicator* self;
    int64_t partner;
  };
  auto note = std::make_unique<Note>(Note{this, partner});
  TAPER_CUDA(cudaLaunchHostFunc(
      queue,
      [](void* data) {
        const std::unique_ptr<Note> reached(static_cast<Note*>(data));
        reached->self->note_wait(reached->partner);
      },
      note.get()));
  static_cast<void>(note.release());  // the queue's, which runs it in any case
}

void NcclCommunicator::watch() {
  std::unique_lock lock(mutex_);
  while (!stop_.wait_for(lock, kPollEvery, [&] { return stopping_; })) {
    ncclResult_t state = ncclSuccess;
    ncclResult_t code = ncclCommGetAsyncError(comm_, &state);
    if (code == ncclSuccess) code = state;
    if (code == ncclSuccess || code == ncclInProgress) continue;
    if (code == ncclRemoteError && stop_.wait_for(lock, kGrace, [&] { return stopping_; })) return;
    failure_ = fmt::format("NCCL on rank {} failed: {}", rank(), describe(code));
    ncclCommAbort(std::exchange(comm_, nullptr));
    lock.unlock();
    host_.fail(failure_, 1);
  }
}

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& host, int device) {
  return std::make_unique<NcclCommunicator>(host, device);
}

}  // namespace taper
