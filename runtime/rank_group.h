#pragma once
// Some of a run's ranks, to do by themselves what others do not.

#include <string>

#include "runtime/communicator.h"

namespace taper {

/// Some ranks of another communicator, which outlives it, in their order: `first`, `first` + `stride` and so
/// on. So that ranks which differ in one bit here do so there, `ranks` and `stride` are powers of two, and a
/// group begins where none of its bits is set. Groups that share no rank may speak at the same time. Tensors
/// go through the host's memory; Backend::connect joins a group's devices.
class RankGroup final : public Communicator {
 public:
  RankGroup(Communicator& all, int64_t first, int64_t stride, int64_t ranks);
  void exchange(int64_t partner, std::span<const std::byte> send, std::span<std::byte> receive) override;
  void note(const std::string& place) override { all_.note(place); }
  void note_wait(int64_t partner) override;
  void set_timeout(double seconds) override { all_.set_timeout(seconds); }
  [[noreturn]] void fail(const std::string& message, int exit_code) override;
  /// Failure: a group has no end of its own.
  void finish() override;

 private:
  Communicator& all_;
  int64_t first_, stride_;
};

}  // namespace taper
