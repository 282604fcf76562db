// A build without MPI.

#include "runtime/communicator.h"

#include "runtime/error.h"

namespace taper {

std::unique_ptr<Communicator> make_mpi_communicator(const RankPlace& place) {
  throw UserError(
      "{} started {} ranks, but this build has no MPI; install libopenmpi-dev and configure it with "
      "-DTAPER_MPI=ON, or start the ranks with torchrun, or a loop that sets what it sets",
      place.starter, place.ranks);
}

}  // namespace taper
