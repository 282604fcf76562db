#pragma once
// Ranks that neither MPI nor anything else connects.

#include <memory>

#include "runtime/communicator.h"

namespace taper {

/// Where such ranks find each other: at rank 0.
struct MeetingPoint {
  std::string host;  ///< a name or a numeric address
  int64_t port = 0;
};

/// MASTER_ADDR and MASTER_PORT; one port further where torchrun keeps that one for itself, as
/// TORCHELASTIC_USE_AGENT_STORE tells. UserError where one is missing, or no port.
MeetingPoint find_meeting_point(const Environment& environment);

/// They connect by TCP: each with rank 0, which listens at the point, and with those whose numbers differ
/// from its own in one bit. All must come within `patience` seconds. An Error says who is missing, or what
/// does not fit together (runtime/tcp/meeting.h).
std::unique_ptr<Communicator> make_tcp_communicator(const RankPlace& place, const MeetingPoint& point,
                                                    double patience);

}  // namespace taper
