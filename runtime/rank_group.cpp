#include "runtime/rank_group.h"

#include <cstdlib>

#include "runtime/error.h"

namespace taper {

RankGroup::RankGroup(Communicator& all, int64_t first, int64_t stride, int64_t ranks)
    : Communicator({.rank = (all.rank() - first) / stride,
                    .ranks = ranks,
                    .local_rank = all.place().local_rank,
                    .local_ranks = all.place().local_ranks,
                    .starter = all.place().starter}),
      all_(all),
      first_(first),
      stride_(stride) {
  TAPER_CHECK(first + rank() * stride == all.rank() && rank() < ranks, "rank {} is not in the group",
              all.rank());
}

void RankGroup::exchange(int64_t partner, std::span<const std::byte> send, std::span<std::byte> receive) {
  all_.exchange(first_ + partner * stride_, send, receive);
}

void RankGroup::note_wait(int64_t partner) {
  all_.note_wait(partner < 0 ? partner : first_ + partner * stride_);
}

void RankGroup::fail(const std::string& message, int exit_code) {
  all_.fail(message, exit_code);
  std::abort();  // g++ 12 does not see that a virtual function never returns
}

void RankGroup::finish() { throw Failure("a group of ranks was to be finished by itself"); }

}  // namespace taper
