#pragma once
// How ranks that nobody connects find each other: all come to rank 0, which tells each where the others are.

#include <string>
#include <vector>

#include "runtime/tcp/communicator.h"
#include "runtime/tcp/socket.h"
#include "runtime/watched_communicator.h"

namespace taper {

/// Where a rank is reached.
struct RankSeat {
  RankCard card;
  std::array<char, 64> address{};
  int64_t port = 0;
};

/// What a rank has when all have come.
struct Meeting {
  uint64_t run = 0;             ///< a number that no other run has
  std::vector<RankSeat> seats;  ///< of all ranks
  std::vector<Socket> letters;  ///< by rank: of rank 0 to each other, of another to rank 0
  Socket listener;              ///< of this rank, for connect_partners()
};

/// Waits `patience` seconds for all ranks. An Error says who is missing, or what does not fit together (two
/// processes with one RANK, another WORLD_SIZE, a port that is taken): on rank 0, and as long as that has not
/// been reached on any rank. Processes that rank 0 has told of it end in silence, with its exit code.
Meeting meet(const RankPlace& place, const MeetingPoint& point, double patience);

/// By rank, connections to those whose numbers differ from this one's in one bit. All ranks call it.
std::vector<Socket> connect_partners(const RankPlace& place, const Meeting& meeting, double patience);

}  // namespace taper
