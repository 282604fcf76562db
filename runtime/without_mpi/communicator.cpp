// A build without MPI.

#include "runtime/communicator.h"

#include "runtime/error.h"

namespace taper {

std::unique_ptr<Communicator> make_mpi_communicator(const RankPlace& place) {
  throw UserError(
      "{} started {} ranks, but this build has no MPI; install libopenmpi-dev and configure it with "
      "-DTAPER_MPI=ON",
      place.starter, place.ranks);
}

}  // namespace taper
