#pragma once
// What the ranks of a simulated NCCL communicator share: memory of this machine in which each lays down what
// it calls and, piece by piece, what it sends.

#include <nccl.h>
#include <pthread.h>
#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace taper::simt {

/// An ncclSend or ncclRecv.
struct NcclCall {
  bool sends;
  int peer;
  ncclDataType_t type;
  uint64_t count;
};

/// 0 for a type that does not exist.
size_t size_of(ncclDataType_t type);
/// "sends 4 float32 to rank 1".
std::string describe(const NcclCall& call);

/// Gives `result`, and to this thread's ncclGetLastError the message.
ncclResult_t refuse(ncclResult_t result, const std::string& message);

class NcclBoard {
 public:
  static constexpr size_t kCalls = 32, kPiece = size_t{64} << 10;

  /// A rank's own part: it alone writes it, all read it.
  struct Seat {
    enum class State : uint32_t { absent, present, left, failed } state;
    pid_t process;
    uint64_t group;  // the number of the group that it is at, or did last; from 1
    uint32_t count;
    NcclCall calls[kCalls];  // of that group
    char failure[512];
  };
  /// What is under way from one rank to another: a piece is there while one more was put than taken.
  struct Channel {
    uint64_t put, taken;
    std::byte piece[kPiece];
  };
  /// Needed to touch what is shared; one that died with it leaves it free.
  class Lock {
   public:
    explicit Lock(NcclBoard& board);
    ~Lock();
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    pthread_mutex_t& mutex_;
  };

  /// Returns when all ranks are there. Throws Failure where they do not agree on how many they are, two are
  /// the same, or one does not come within a minute.
  NcclBoard(const std::string& name, int rank, int ranks);
  ~NcclBoard();
  NcclBoard(const NcclBoard&) = delete;
  NcclBoard& operator=(const NcclBoard&) = delete;

  Seat& seat(int rank);
  Channel& channel(int from, int to);
  /// What became of a rank that has done nothing for some seconds and never will again; empty for others. A
  /// GPU waits for such a rank for ever: whatever watches the ranks has the first word about it.
  std::string gone(int rank);

 private:
  struct Header;
  void open(const std::string& name, int rank);
  void join(int rank);
  void wait_for_all(const std::string& name, int rank);

  int ranks_;
  size_t bytes_;
  Header* header_ = nullptr;
  std::vector<int> deaths_;  // of each rank's process, what becomes readable when it dies
  std::vector<std::chrono::steady_clock::time_point> gone_since_;
};

}  // namespace taper::simt
