#pragma once
// Ranks: processes that train one network together. This is what they can say to each other; sums over ranks
// are in autograd/collectives.h, where there is a backend that adds.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/rank_place.h"
#include "runtime/tensor.h"

namespace taper {

/// The ranks of a run, seen from one of them. All calls but notes are made by every rank, in the same order,
/// by one thread of each at a time. Every collective is built on exchange() between ranks whose numbers
/// differ in one bit, nearest first, and needs a power of two of them.
///
/// A rank that does not answer within the timeout, or has died, ends all of them: one rank prints which,
/// where and why, and all exit with code 1.
class Communicator {
 public:
  explicit Communicator(RankPlace place) : place_(std::move(place)) {}
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  const RankPlace& place() const { return place_; }
  int64_t rank() const { return place_.rank; }
  int64_t ranks() const { return place_.ranks; }
  /// Ranks on this machine.
  int64_t local_ranks() const { return place_.local_ranks; }
  bool first() const { return place_.rank == 0; }

  /// Sends to `partner` and receives what it sends, both at once; the partner's sizes are the reverse. Host
  /// memory.
  virtual void exchange(int64_t partner, std::span<const std::byte> send, std::span<std::byte> receive) = 0;

  /// The same for tensors on the stream's device, behind the work issued to it so far; what comes next on it
  /// finds `receive` filled. Through the host's memory, unless the device has a way of its own (NCCL).
  virtual void exchange_tensors(Stream& stream, int64_t partner, const Tensor& send, Tensor& receive);

  /// `blocks` is ranks() blocks of equal size; each rank has filled its own, and gets the others.
  void all_gather(std::span<std::byte> blocks);
  /// What every rank gives, in the order of ranks; their sizes may differ.
  std::vector<std::string> all_gather(const std::string& own);
  /// Everybody gets what rank 0 gives.
  std::string broadcast(const std::string& own);
  /// Returns when every rank has come here.
  void barrier();
  /// Whether it is so on any rank.
  bool any(bool here);

  /// What this rank is doing ("stage wide, step 5"), for the message about one that is lost. Any thread.
  virtual void note(const std::string& place) = 0;
  /// That this rank waits for `partner`, or no more (-1). exchange() notes it itself. Any thread.
  virtual void note_wait(int64_t partner) = 0;
  /// How long a rank may keep another waiting.
  virtual void set_timeout(double seconds) = 0;
  /// Ends all ranks with this exit code and, printed once, this message, whether it happened here alone or on
  /// all.
  [[noreturn]] virtual void fail(const std::string& message, int exit_code) = 0;
  /// The orderly end, together: afterwards a rank that exits is not missed.
  virtual void finish() = 0;

 private:
  RankPlace place_;
};

/// The one rank of a process that was started alone.
class SingleProcess final : public Communicator {
 public:
  SingleProcess() : Communicator(RankPlace{}) {}
  void exchange(int64_t partner, std::span<const std::byte> send, std::span<std::byte> receive) override;
  void note(const std::string&) override {}
  void note_wait(int64_t) override {}
  void set_timeout(double) override {}
  [[noreturn]] void fail(const std::string& message, int exit_code) override;
  void finish() override {}
};

/// A SingleProcess, for whoever trains without ranks.
Communicator& only_rank();

/// MPI's ranks; MPI is initialised here and by finish() finalised. Throws UserError where the build has no
/// MPI, or where MPI sees other ranks than `place` says.
std::unique_ptr<Communicator> make_mpi_communicator(const RankPlace& place);

/// The ranks that the environment tells of: MPI's, or those that connect among themselves by TCP, or a single
/// process, for which nothing of either is touched. UserError for an environment that contradicts itself.
std::unique_ptr<Communicator> make_communicator(const Environment& environment);

}  // namespace taper
