// NCCL's functions for ranks that are processes of one machine, each with a simulated GPU. The calls of a
// group are queued on their stream, and done together when the stream comes to them.
//
// They are stricter than NCCL: both ends of what is sent are in the same group, as each rank counts them,
// which is so where all ranks do the same. Then what would make GPUs hang, or move wrong bytes, is found at
// once.

#include <nccl.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>

#include "runtime/error.h"
#include "runtime/simt/memory.h"
#include "runtime/simt/nccl_board.h"
#include "runtime/simt/queue.h"

namespace taper::simt {

namespace {

constexpr useconds_t kPause = 50;

struct Operation {
  NcclCall call;
  std::byte* data;
  size_t done = 0;       // bytes
  uint64_t pieces = 0;   // one at least, for the other end has to come to it
  bool matched = false;  // the other end was there, and may since have gone on
  bool finished = false;
};

struct Failed {
  ncclResult_t result = ncclSuccess;
  std::string message;
};

/// A communicator as one rank has it. What is queued on streams keeps it alive.
class NcclRank {
 public:
  NcclRank(const std::string& name, int rank, int ranks)
      : board_(name, rank, ranks), rank_(rank), ranks_(ranks) {
    cudaEventCreateWithFlags(&issued_, cudaEventDisableTiming);
  }
  ~NcclRank() { cudaEventDestroy(issued_); }
  NcclRank(const NcclRank&) = delete;
  NcclRank& operator=(const NcclRank&) = delete;

  int ranks() const { return ranks_; }
  /// Queues a group on its stream, behind the groups before, whatever streams they are on.
  static cudaError_t issue(const std::shared_ptr<NcclRank>& self, std::vector<Operation> operations,
                           cudaStream_t stream);
  /// Ends what is under way, and what would come, with an error; the first stays.
  Failed fail(const Failed& failed);
  Failed failed() {
    std::lock_guard lock(mutex_);
    return failed_;
  }
  /// Waits for what was issued.
  void leave();

 private:
  std::string run(uint64_t group, std::vector<Operation> operations);
  Failed step(uint64_t group, std::vector<Operation>& operations, bool& moved);
  Failed mismatch(uint64_t group, const NcclCall& call, const NcclCall* other);
  const NcclCall* other_end(const NcclCall& call, size_t number);
  bool transfer(Operation& operation);

  NcclBoard board_;
  int rank_, ranks_;
  uint64_t groups_ = 0;
  cudaEvent_t issued_ = nullptr;  // after the last group
  std::mutex mutex_;              // guards the failure
  Failed failed_;
};

cudaError_t NcclRank::issue(const std::shared_ptr<NcclRank>& self, std::vector<Operation> operations,
                            cudaStream_t stream) {
  if (cudaError_t error = cudaStreamWaitEvent(stream, self->issued_, 0)) return error;
  auto work = [self, group = ++self->groups_, operations = std::move(operations)] {
    return self->run(group, operations);
  };
  if (cudaError_t error = submit(stream, std::move(work))) return error;
  return cudaEventRecord(self->issued_, stream);
}

Failed NcclRank::fail(const Failed& failed) {
  std::lock_guard lock(mutex_);
  if (failed_.result != ncclSuccess) return failed_;
  failed_ = failed;
  NcclBoard::Lock board_lock(board_);
  NcclBoard::Seat& own = board_.seat(rank_);
  fmt::format_to_n(own.failure, sizeof own.failure - 1, "{}", failed.message);
  own.state = NcclBoard::Seat::State::failed;
  return failed_;
}

void NcclRank::leave() {
  cudaEventSynchronize(issued_);
  NcclBoard::Lock lock(board_);
  NcclBoard::Seat& own = board_.seat(rank_);
  if (own.state == NcclBoard::Seat::State::present) own.state = NcclBoard::Seat::State::left;
}

std::string NcclRank::run(uint64_t group, std::vector<Operation> operations) {
  if (Failed before = failed(); before.result != ncclSuccess) return before.message;
  {
    NcclBoard::Lock lock(board_);
    NcclBoard::Seat& own = board_.seat(rank_);
    own.group = group;
    own.count = 0;
    for (const Operation& operation : operations) own.calls[own.count++] = operation.call;
  }
  while (true) {
    if (Failed before = failed(); before.result != ncclSuccess) return before.message;
    bool moved = false;
    Failed now;
    {
      NcclBoard::Lock lock(board_);
      now = step(group, operations, moved);
    }
    if (now.result != ncclSuccess) return fail(now).message;
    if (std::ranges::all_of(operations, &Operation::finished)) return {};
    if (!moved) usleep(kPause);
  }
}

// One piece of each operation that is the next between its two ranks.
Failed NcclRank::step(uint64_t group, std::vector<Operation>& operations, bool& moved) {
  for (auto one = operations.begin(); one != operations.end(); ++one) {
    if (one->finished) continue;
    auto same_way = [&](const Operation& before) {
      return before.call.sends == one->call.sends && before.call.peer == one->call.peer;
    };
    auto number = static_cast<size_t>(std::count_if(operations.begin(), one, same_way));
    if (std::any_of(operations.begin(), one,
                    [&](const Operation& before) { return same_way(before) && !before.finished; }))
      continue;
    const uint64_t reached = board_.seat(one->call.peer).group;
    if (!one->matched && reached >= group) {
      const NcclCall* other = reached == group ? other_end(one->call, number) : nullptr;
      if (other == nullptr || other->type != one->call.type || other->count != one->call.count)
        return mismatch(group, one->call, other);
      one->matched = true;
    }
    if (one->matched && transfer(*one)) {
      moved = true;
      continue;
    }
    if (std::string gone = board_.gone(one->call.peer); !gone.empty())
      return {ncclRemoteError,
              fmt::format("NCCL group {} of rank {} {}, which {}", group, rank_, describe(one->call), gone)};
  }
  return {};
}

// What matches call number `number` of those between two ranks one way, in the group that the other is at.
const NcclCall* NcclRank::other_end(const NcclCall& call, size_t number) {
  const NcclBoard::Seat& other = board_.seat(call.peer);
  for (uint32_t i = 0; i < other.count; ++i)
    if (other.calls[i].sends != call.sends && other.calls[i].peer == rank_ && number-- == 0)
      return &other.calls[i];
  return nullptr;
}

Failed NcclRank::mismatch(uint64_t group, const NcclCall& call, const NcclCall* other) {
  const NcclBoard::Seat& seat = board_.seat(call.peer);
  std::string there;
  if (other != nullptr) there = describe(*other);
  for (uint32_t i = 0; other == nullptr && i < seat.count; ++i)
    there += (i == 0 ? "" : ", ") + describe(seat.calls[i]);
  std::string number = seat.group == group ? "" : fmt::format(", already at its group {},", seat.group);
  return {
      ncclInvalidUsage,
      fmt::format("NCCL group {0} of rank {1} {2}, but rank {3}{4} {5}; both ends of what is sent must be "
                  "in the same group, with the same count and type",
                  group, rank_, describe(call), call.peer, number, there)};
}

// Whether there was something to do. What was sent is sent when it was taken.
bool NcclRank::transfer(Operation& operation) {
  const NcclCall& call = operation.call;
  NcclBoard::Channel& channel =
      call.sends ? board_.channel(rank_, call.peer) : board_.channel(call.peer, rank_);
  const size_t bytes = size_of(call.type) * call.count;
  const size_t piece = std::min(NcclBoard::kPiece, bytes - operation.done);
  std::byte* data = operation.data + operation.done;
  const bool full = channel.put != channel.taken;
  operation.finished = operation.pieces > 0 && operation.done == bytes && !(call.sends && full);
  if (operation.finished) return true;
  if (call.sends == full) return false;
  if (call.sends) {
    std::memcpy(channel.piece, data, piece);
    ++channel.put;
  } else {
    std::memcpy(data, channel.piece, piece);
    filled(data, piece);
    ++channel.taken;
  }
  operation.done += piece;
  ++operation.pieces;
  return true;
}

struct Queued {
  ncclComm_t comm;
  cudaStream_t stream;
  Operation operation;
};

/// The calls of this thread since ncclGroupStart.
struct Group {
  int depth = 0;
  std::vector<Queued> calls;
};

Group& group() {
  static thread_local Group group;
  return group;
}

// What ncclGetLastError gives to this thread.
std::string& last_error() {
  static thread_local std::string message;
  return message;
}

}  // namespace

ncclResult_t refuse(ncclResult_t result, const std::string& message) {
  last_error() = message;
  return result;
}

}  // namespace taper::simt

struct ncclComm {
  std::shared_ptr<taper::simt::NcclRank> rank;
};

namespace taper::simt {

namespace {

// Issues the calls of each communicator.
ncclResult_t end_group(std::vector<Queued> calls) {
  while (!calls.empty()) {
    const ncclComm_t comm = calls.front().comm;
    const cudaStream_t stream = calls.front().stream;
    std::vector<Operation> operations;
    std::vector<Queued> others;
    for (const Queued& one : calls) {
      if (one.comm != comm) {
        others.push_back(one);
        continue;
      }
      if (one.stream != stream)
        return refuse(ncclInvalidUsage, "the simulated NCCL takes the calls of a group on one stream only");
      operations.push_back(one.operation);
    }
    if (operations.size() > NcclBoard::kCalls)
      return refuse(ncclInvalidUsage,
                    fmt::format("the simulated NCCL takes {} calls in a group", NcclBoard::kCalls));
    const std::shared_ptr<NcclRank> rank = comm->rank;  // an abort beside this deletes the handle
    if (cudaError_t error = NcclRank::issue(rank, std::move(operations), stream))
      return refuse(ncclUnhandledCudaError, cudaGetErrorString(error));
    calls = std::move(others);
  }
  return ncclSuccess;
}

ncclResult_t add(const NcclCall& call, const void* data, ncclComm_t comm, cudaStream_t stream) {
  if (comm == nullptr) return refuse(ncclInvalidArgument, "a call of NCCL without a communicator");
  if (Failed before = comm->rank->failed(); before.result != ncclSuccess)
    return refuse(before.result, before.message);
  if (call.peer < 0 || call.peer >= comm->rank->ranks())
    return refuse(ncclInvalidArgument,
                  fmt::format("there is no rank {} of {}", call.peer, comm->rank->ranks()));
  const size_t size = size_of(call.type);
  if (size == 0) return refuse(ncclInvalidArgument, "a call of NCCL with a type that there is not");
  if (call.count > SIZE_MAX / size)
    return refuse(ncclInvalidArgument,
                  fmt::format("a call of NCCL that {}, which is more than there is", describe(call)));
  if (call.count > 0 && !on_device(data, size * call.count))
    return refuse(
        ncclInvalidArgument,
        fmt::format("a call of NCCL that {}, from or to what is no memory of the device", describe(call)));
  group().calls.push_back({comm, stream, {call, static_cast<std::byte*>(const_cast<void*>(data))}});
  return group().depth > 0 ? ncclSuccess : end_group(std::exchange(group().calls, {}));
}

}  // namespace

}  // namespace taper::simt

using taper::simt::refuse;

extern "C" {

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  uint64_t number = 0;
  if (getrandom(&number, sizeof number, 0) != sizeof number)
    return refuse(ncclSystemError, "getrandom gave nothing");
  *id = {};
  fmt::format_to_n(id->internal, sizeof id->internal - 1, "/taper-nccl-{:016x}", number);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank) {
  if (ranks < 1 || rank < 0 || rank >= ranks)
    return refuse(ncclInvalidArgument, fmt::format("there is no rank {} of {}", rank, ranks));
  try {
    *comm = new ncclComm{std::make_shared<taper::simt::NcclRank>(id.internal, rank, ranks)};
  } catch (const taper::Failure& failure) {
    return refuse(ncclSystemError, failure.what());
  }
  return ncclSuccess;
}

ncclResult_t ncclCommCount(ncclComm_t comm, int* ranks) {
  *ranks = comm->rank->ranks();
  return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  comm->rank->leave();
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  comm->rank->fail({ncclInternalError, "the communicator was aborted"});
  delete comm;
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  taper::simt::Failed failed = comm->rank->failed();
  *error = failed.result;
  if (failed.result != ncclSuccess) refuse(failed.result, failed.message);
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInternalError:
      return "internal error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
  }
  return "unknown result code";
}

const char* ncclGetLastError(ncclComm_t) { return taper::simt::last_error().c_str(); }

ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return taper::simt::add({true, peer, type, count}, from, comm, stream);
}

ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return taper::simt::add({false, peer, type, count}, to, comm, stream);
}

ncclResult_t ncclGroupStart() {
  ++taper::simt::group().depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  auto& group = taper::simt::group();
  if (group.depth == 0) return refuse(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
  if (--group.depth > 0) return ncclSuccess;
  return taper::simt::end_group(std::exchange(group.calls, {}));
}
}
