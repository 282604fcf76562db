// The simulated NCCL: processes that send device memory to each other, on streams that run as late as they
// may, and what it says where they do not agree.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nccl.h>
#include <unistd.h>

#include <cmath>
#include <functional>
#include <numeric>
#include <thread>
#include <vector>

#include "kernels/backend.h"
#include "runtime/cuda/stream.h"
#include "runtime/simt/simt.h"
#include "runtime/tensor.h"
#include "tests/rank_processes.h"

namespace taper {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

// What a rank has in each of these tests.
struct Rank {
  Rank(int rank, int ranks, const ncclUniqueId& id) : number(rank) {
    const ncclResult_t result = ncclCommInitRank(&comm, ranks, id, rank);
    if (result != ncclSuccess) error = ncclGetLastError(nullptr);
  }
  // Remembers the first error.
  void check(ncclResult_t result) {
    if (result != ncclSuccess && error.empty()) error = ncclGetLastError(comm);
  }
  void check(cudaError_t result) {
    if (result != cudaSuccess && error.empty()) error = cudaGetErrorString(result);
  }
  void send(const Tensor& tensor, int64_t count, int peer, ncclDataType_t type = ncclFloat32) {
    check(ncclSend(tensor.data(), static_cast<size_t>(count), type, peer, comm, stream.handle()));
  }
  void receive(Tensor& tensor, int64_t count, int peer, ncclDataType_t type = ncclFloat32) {
    check(ncclRecv(tensor.data(), static_cast<size_t>(count), type, peer, comm, stream.handle()));
  }
  // Both at once.
  void exchange(const Tensor& from, Tensor& to, int peer) {
    check(ncclGroupStart());
    send(from, from.size(), peer);
    receive(to, to.size(), peer);
    check(ncclGroupEnd());
  }
  void wait() { check(cudaStreamSynchronize(stream.handle())); }
  // The end of a rank that has come to it: its error, if any.
  std::string end() {
    wait();
    check(ncclCommDestroy(comm));
    return error;
  }
  Tensor tensor(int64_t count, float value) {
    return Tensor::from<float>(stream, {count}, std::vector<float>(static_cast<size_t>(count), value));
  }

  int number;
  ncclComm_t comm = nullptr;
  std::string error;
  CudaStream stream{0};
};

class SimtNccl : public ::testing::TestWithParam<bool> {
 protected:
  SimtNccl() {
    if (GetParam()) simt::set_schedule({.streams = simt::Schedule::Streams::kLate, .seed = 5});
  }
  ~SimtNccl() override { simt::set_schedule({}); }
};
INSTANTIATE_TEST_SUITE_P(Streams, SimtNccl, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "late" : "eager"; });

// Every size that a piece divides, does not divide, or is larger than; every pair of ranks; each rank's own
// values.
TEST_P(SimtNccl, EveryPairExchangesWhatTheStreamHasWritten) {
  constexpr int kRanks = 4;
  auto body = [](int number, const ncclUniqueId& id) -> std::string {
    Rank rank(number, kRanks, id);
    for (int64_t size : {0, 1, 16384, 16385, 100'003})
      for (int distance = 1; distance < kRanks; ++distance) {
        const int peer = number ^ distance;
        std::vector<float> values(static_cast<size_t>(size));
        std::iota(values.begin(), values.end(), static_cast<float>(1000 * number + distance));
        Tensor from = Tensor::from<float>(rank.stream, {size}, values), to(rank.stream, DType::f32, {size});
        rank.exchange(from, to, peer);
        rank.stream.zero(from.data(), from.bytes());  // what comes after changes nothing of what was sent
        std::iota(values.begin(), values.end(), static_cast<float>(1000 * peer + distance));
        if (to.host<float>(rank.stream) != values)
          return fmt::format("rank {}: {} values from rank {} are wrong", number, size, peer);
      }
    return rank.end();
  };
  EXPECT_THAT(on_ranks(kRanks, body), Each(std::string()));
}

// Values whose sum depends on the order of every addition; the vectors go out as they were when the stream
// comes to them, and in place.
TEST_P(SimtNccl, SumsAddInTheOrderOfRanks) {
  constexpr int kRanks = 4;
  auto value = [](int rank, int64_t i) {
    return std::ldexp(static_cast<float>((i * 7 + rank * 13) % 1021) + 0.1F,
                      (rank * 5 + static_cast<int>(i)) % 20);
  };
  auto body = [&](int number, const ncclUniqueId& id) -> std::string {
    Rank rank(number, kRanks, id);
    for (int64_t size : {0, 1, 16385, 40'003}) {
      std::vector<float> own, expected;
      for (int64_t i = 0; i < size; ++i) {
        own.push_back(value(number, i));
        expected.push_back(((value(0, i) + value(1, i)) + value(2, i)) + value(3, i));
      }
      Tensor tensor = Tensor::from<float>(rank.stream, {size}, own);
      rank.check(ncclAllReduce(tensor.data(), tensor.data(), static_cast<size_t>(size), ncclFloat32, ncclSum,
                               rank.comm, rank.stream.handle()));
      if (tensor.host<float>(rank.stream) != expected)
        return fmt::format("rank {}: the sum of {} values is wrong", number, size);
    }
    Tensor tensor = rank.tensor(4, 1);
    if (ncclAllReduce(tensor.data(), tensor.data(), 4, ncclInt32, ncclSum, rank.comm, rank.stream.handle()) !=
        ncclInvalidArgument)
      return "a sum of int32 was accepted";
    return rank.end();
  };
  EXPECT_THAT(on_ranks(kRanks, body), Each(std::string()));
}

// Several calls between the same two ranks, whose order counts, with others between them; and a rank's own.
TEST_P(SimtNccl, CallsOfAGroupAreMatchedInTheirOrder) {
  auto body = [](int number, const ncclUniqueId& id) -> std::string {
    Rank rank(number, 2, id);
    const int peer = 1 - number;
    Tensor first = rank.tensor(30'000, static_cast<float>(10 + number)),
           second = rank.tensor(20'000, static_cast<float>(20 + number)), a = rank.tensor(30'000, 0),
           b = rank.tensor(20'000, 0), own = rank.tensor(20'000, 0);
    rank.check(ncclGroupStart());
    rank.receive(a, 30'000, peer);
    rank.send(first, 30'000, peer);
    rank.receive(own, 20'000, number);
    rank.send(second, 20'000, number);
    rank.send(second, 20'000, peer);
    rank.receive(b, 20'000, peer);
    rank.check(ncclGroupEnd());
    const auto from = static_cast<float>(peer);
    if (a.host<float>(rank.stream) != std::vector<float>(30'000, 10 + from)) return "the first is wrong";
    if (b.host<float>(rank.stream) != std::vector<float>(20'000, 20 + from)) return "the second is wrong";
    if (own.host<float>(rank.stream) != second.host<float>(rank.stream)) return "its own is wrong";
    return rank.end();
  };
  EXPECT_THAT(on_ranks(2, body), Each(std::string()));
}

// Without ncclGroupStart each call is a group, and a send is done when it was received.
TEST_P(SimtNccl, CallsOneByOneAreDoneByTurns) {
  auto body = [](int number, const ncclUniqueId& id) -> std::string {
    Rank rank(number, 2, id);
    for (int i = 0; i < 300; ++i) {
      Tensor tensor = rank.tensor(3, static_cast<float>(number == i % 2 ? i : -1));
      if (number == i % 2)
        rank.send(tensor, 3, 1 - number);
      else
        rank.receive(tensor, 3, 1 - number);
      if (tensor.host<float>(rank.stream) != std::vector<float>(3, static_cast<float>(i)))
        return fmt::format("value {} is wrong", i);
    }
    return rank.end();
  };
  EXPECT_THAT(on_ranks(2, body), Each(std::string()));
}

TEST(SimtNcclLate, WhatIsReadBeforeTheStreamIsSynchronisedIsNotThereYet) {
  auto body = [](int number, const ncclUniqueId& id) -> std::string {
    simt::set_schedule({.streams = simt::Schedule::Streams::kLate});
    Rank rank(number, 2, id);
    CudaStream other(0);
    Tensor from = rank.tensor(4, 1), to = rank.tensor(4, 0);
    rank.wait();
    rank.exchange(from, to, 1 - number);
    // Another stream is not ordered behind the transfer; the simulated memory can be read by the host.
    const float before = to.as<float>()[0];
    rank.wait();
    const float after = to.as<float>()[0];
    if (before != 0 || after != 1) return fmt::format("{} before, {} after", before, after);
    return rank.end();
  };
  EXPECT_THAT(on_ranks(2, body), Each(std::string()));
}

// Groups are done in the order in which they were issued, whatever stream is waited for first.
TEST(SimtNcclLate, GroupsOnSeveralStreamsKeepTheirOrder) {
  auto body = [](int number, const ncclUniqueId& id) -> std::string {
    simt::set_schedule({.streams = simt::Schedule::Streams::kLate, .seed = static_cast<uint64_t>(number)});
    Rank rank(number, 2, id);
    CudaStream second(0);
    Tensor from = rank.tensor(5, 1), to = rank.tensor(5, 0), again = rank.tensor(7, 0),
           more = rank.tensor(7, 2);
    rank.wait();
    rank.exchange(from, to, 1 - number);
    rank.check(ncclGroupStart());
    rank.check(ncclSend(more.data(), 7, ncclFloat32, 1 - number, rank.comm, second.handle()));
    rank.check(ncclRecv(again.data(), 7, ncclFloat32, 1 - number, rank.comm, second.handle()));
    rank.check(ncclGroupEnd());
    if (number == 0) rank.check(cudaStreamSynchronize(second.handle()));
    rank.wait();
    rank.check(cudaStreamSynchronize(second.handle()));
    if (to.as<float>()[4] != 1 || again.as<float>()[6] != 2) return "wrong values";
    return rank.end();
  };
  EXPECT_THAT(on_ranks(2, body), Each(std::string()));
}

// What rank 0 and rank 1 do, and what both are told.
struct Disagreement {
  std::string name;
  std::function<void(Rank&, Tensor&, Tensor&)> first, second;
  std::vector<std::string> said_to_first, said_to_second;
};

void exchange(Rank& rank, Tensor& from, Tensor& to, int64_t sent, int64_t received,
              ncclDataType_t type = ncclFloat32) {
  rank.check(ncclGroupStart());
  rank.send(from, sent, 1 - rank.number, type);
  rank.receive(to, received, 1 - rank.number, type);
  rank.check(ncclGroupEnd());
}

std::vector<Disagreement> disagreements() {
  auto plain = [](Rank& rank, Tensor& from, Tensor& to) { exchange(rank, from, to, 8, 8); };
  return {
      {"count",
       plain,
       [](Rank& rank, Tensor& from, Tensor& to) { exchange(rank, from, to, 8, 7); },
       {"group 1 of rank 0 sends 8 float32 to rank 1, but rank 1 receives 7 float32 from rank 0"},
       {"group 1 of rank 1 receives 7 float32 from rank 0, but rank 0 sends 8 float32 to rank 1"}},
      {"type",
       plain,
       [](Rank& rank, Tensor& from, Tensor& to) { exchange(rank, from, to, 8, 8, ncclBfloat16); },
       {"rank 0 sends 8 float32 to rank 1, but rank 1 receives 8 bfloat16 from rank 0"},
       {"rank 1 sends 8 bfloat16 to rank 0, but rank 0 receives 8 float32 from rank 1"}},
      {"order",
       [](Rank& rank, Tensor& from, Tensor& to) {
         exchange(rank, from, to, 8, 8);
         exchange(rank, from, to, 4, 4);
       },
       [](Rank& rank, Tensor& from, Tensor& to) {
         exchange(rank, from, to, 4, 4);
         exchange(rank, from, to, 8, 8);
       },
       {"group 1 of rank 0 sends 8 float32 to rank 1, but rank 1 receives 4 float32 from rank 0"},
       {"group 1 of rank 1 sends 4 float32 to rank 0, but rank 0 receives 8 float32 from rank 1"}},
      // As NCCL would hang without a group: each waits for the other to receive.
      {"ungrouped",
       [](Rank& rank, Tensor& from, Tensor& to) {
         rank.send(from, 8, 1);
         rank.receive(to, 8, 1);
       },
       [](Rank& rank, Tensor& from, Tensor& to) {
         rank.send(from, 8, 0);
         rank.receive(to, 8, 0);
       },
       {"group 1 of rank 0 sends 8 float32 to rank 1, but rank 1 sends 8 float32 to rank 0"},
       {"group 1 of rank 1 sends 8 float32 to rank 0, but rank 0 sends 8 float32 to rank 1"}},
      {"one_more",
       [](Rank& rank, Tensor& from, Tensor& to) {
         exchange(rank, from, to, 8, 8);
         rank.send(from, 8, 1);
       },
       plain,
       {"group 2 of rank 0 sends 8 float32 to rank 1, which has left with ncclCommDestroy"},
       {}},
      {"to_itself",
       [](Rank& rank, Tensor& from, Tensor& to) {
         rank.send(from, 8, 0);
         rank.receive(to, 8, 0);
       },
       [](Rank&, Tensor&, Tensor&) {},
       {"group 1 of rank 0 sends 8 float32 to rank 0, but rank 0 sends 8 float32 to rank 0"},
       {}},
  };
}

class SimtNcclDisagreement : public ::testing::TestWithParam<Disagreement> {};
INSTANTIATE_TEST_SUITE_P(Ranks, SimtNcclDisagreement, ::testing::ValuesIn(disagreements()),
                         [](const auto& info) { return info.param.name; });

TEST_P(SimtNcclDisagreement, IsAnErrorThatNamesBothSides) {
  for (auto streams : {simt::Schedule::Streams::kEager, simt::Schedule::Streams::kLate}) {
    auto body = [&](int number, const ncclUniqueId& id) -> std::string {
      simt::set_schedule({.streams = streams});
      Rank rank(number, 2, id);
      Tensor from = rank.tensor(8, 1), to = rank.tensor(8, 0);
      (number == 0 ? GetParam().first : GetParam().second)(rank, from, to);
      return rank.end();
    };
    const std::vector<std::string> said = on_ranks(2, body);
    for (const std::string& text : GetParam().said_to_first) EXPECT_THAT(said[0], HasSubstr(text));
    for (const std::string& text : GetParam().said_to_second) EXPECT_THAT(said[1], HasSubstr(text));
  }
}

TEST(SimtNcclErrors, APartnerThatHasGoneOnWithoutIsNamed) {
  auto body = [&](int number, const ncclUniqueId& id) -> std::string {
    Rank rank(number, 3, id);
    Tensor from = rank.tensor(8, 1), to = rank.tensor(8, 0);
    if (number == 0) usleep(200'000);
    for (int i = 0; i < 3; ++i) rank.exchange(from, to, number == 1 ? 2 : 1);
    return rank.end();
  };
  EXPECT_THAT(on_ranks(3, body)[0], HasSubstr("group 1 of rank 0 sends 8 float32 to rank 1, but rank 1, "
                                              "already at its group 3, sends 8 float32 to rank 2"));
}

TEST(SimtNcclErrors, APartnerThatDiesOrAbortsIsNamed) {
  for (bool dies : {true, false}) {
    auto body = [&](int number, const ncclUniqueId& id) -> std::string {
      Rank rank(number, 2, id);
      Tensor from = rank.tensor(100'000, 1), to = rank.tensor(100'000, 0);
      rank.exchange(from, to, 1 - number);
      if (number == 1) {
        if (dies) _exit(3);
        ncclCommAbort(rank.comm);
        return "aborted";
      }
      rank.exchange(from, to, 1);
      ncclResult_t later = ncclSuccess;
      ncclCommGetAsyncError(rank.comm, &later);
      if (later != ncclRemoteError) return fmt::format("the error is {}", static_cast<int>(later));
      // Nothing goes on after that.
      rank.check(ncclSend(from.data(), 1, ncclFloat32, 1, rank.comm, rank.stream.handle()));
      return rank.error;
    };
    EXPECT_THAT(on_ranks(2, body)[0],
                AllOf(HasSubstr("group 2 of rank 0 sends 100000 float32 to rank 1, which has "),
                      HasSubstr(dies ? "died" : "failed: the communicator was aborted")));
  }
}

// As Taper's host thread does it: a transfer that does not come to its end is ended by an abort beside it.
TEST(SimtNcclErrors, AnAbortEndsATransferUnderWay) {
  auto body = [&](int number, const ncclUniqueId& id) -> std::string {
    Rank rank(number, 2, id);
    Tensor from = rank.tensor(8, 1);
    if (number == 1) {
      usleep(400'000);
      return "waited";
    }
    std::thread beside([&] {
      usleep(100'000);
      ncclCommAbort(rank.comm);
    });
    rank.send(from, 8, 1);
    beside.join();
    return rank.error;
  };
  EXPECT_THAT(on_ranks(2, body)[0], HasSubstr("the communicator was aborted"));
}

TEST(SimtNcclErrors, RanksThatDoNotAgreeOnHowManyTheyAreAreNotConnected) {
  auto size = [](int number, const ncclUniqueId& id) { return Rank(number, 2 + number, id).error; };
  EXPECT_THAT(on_ranks(2, size),
              Each(HasSubstr("rank 1 calls ncclCommInitRank for 3 ranks, but rank 0 for 2")));
  auto twice = [](int number, const ncclUniqueId& id) { return Rank(number == 0 ? 0 : 1, 4, id).error; };
  EXPECT_THAT(on_ranks(3, twice), Each(HasSubstr("both call ncclCommInitRank as rank 1")));
}

TEST(SimtNcclErrors, WhatCannotBeSentIsRefused) {
  auto body = [&](int number, const ncclUniqueId& id) -> std::string {
    Rank rank(number, 1, id);
    Tensor tensor = rank.tensor(8, 1);
    std::vector<float> host(8);
    auto said = [&](ncclResult_t result) {
      return result == ncclInvalidArgument ? std::string(ncclGetLastError(rank.comm)) : "accepted";
    };
    const cudaStream_t stream = rank.stream.handle();
    const std::vector<std::string> all = {
        said(ncclSend(host.data(), 8, ncclFloat32, 0, rank.comm, stream)),
        said(ncclSend(tensor.data(), 1'000'000, ncclFloat32, 0, rank.comm, stream)),
        said(ncclRecv(tensor.data(), 8, ncclFloat32, 1, rank.comm, stream)),
        said(ncclSend(tensor.data(), SIZE_MAX / 2, ncclFloat32, 0, rank.comm, stream))};
    return fmt::format("{}", fmt::join(all, "; "));
  };
  EXPECT_EQ(
      on_ranks(1, body)[0],
      "a call of NCCL that sends 8 float32 to rank 0, from or to what is no memory of the device; "
      "a call of NCCL that sends 1000000 float32 to rank 0, from or to what is no memory of the device; "
      "there is no rank 1 of 1; "
      "a call of NCCL that sends 9223372036854775807 float32 to rank 0, which is more than there is");
}

}  // namespace
}  // namespace taper
