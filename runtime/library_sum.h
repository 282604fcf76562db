#pragma once
// What some of the libraries that connect ranks can do for them: add.

#include "runtime/communicator.h"

namespace taper {

/// Beside a Communicator, that of a library with an all-reduce of its own.
class LibrarySum {
 public:
  virtual ~LibrarySum() = default;
  /// Adds a vector of f32 over all ranks, in place, behind the work issued to the stream so far; what comes
  /// next on it finds the sum. The library adds in an order of its choice, which may depend on the number of
  /// ranks and on the machine: of more than two ranks the bits are not those of autograd/collectives.h. All
  /// ranks call it.
  virtual void sum(Stream& stream, Tensor& values) = 0;
};

/// Null where these ranks have none.
inline LibrarySum* library_sum(Communicator& ranks) { return dynamic_cast<LibrarySum*>(&ranks); }

}  // namespace taper
