// Ranks connected by NCCL, simulated: sums over them on the device, what the host still hears of, and how an
// error of NCCL's ends all.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cmath>
#include <map>
#include <mutex>

#include "autograd/collectives.h"
#include "runtime/cuda/stream.h"
#include "runtime/philox.h"
#include "runtime/simt/simt.h"
#include "tests/rank_processes.h"

namespace taper {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

// A socket between each two ranks: by (of, to).
using Sockets = std::map<std::pair<int64_t, int64_t>, int>;
Sockets make_sockets(int ranks) {
  Sockets sockets;
  for (int64_t a = 0; a < ranks; ++a)
    for (int64_t b = a + 1; b < ranks; ++b) {
      int ends[2];
      EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
      sockets[{a, b}] = ends[0];
      sockets[{b, a}] = ends[1];
    }
  return sockets;
}

// What NCCL's ranks rest on, by sockets.
class SocketRank final : public Communicator {
 public:
  SocketRank(int64_t rank, int64_t ranks, Sockets sockets)
      : Communicator({.rank = rank, .ranks = ranks, .local_rank = rank, .local_ranks = ranks}),
        sockets_(std::move(sockets)) {}
  void exchange(int64_t partner, std::span<const std::byte> send, std::span<std::byte> receive) override {
    const int socket = sockets_.at({rank(), partner});
    if (write(socket, send.data(), send.size()) != static_cast<ssize_t>(send.size()))
      throw Failure("the socket is full");
    for (size_t got = 0; got < receive.size();) {
      const ssize_t part = read(socket, receive.data() + got, receive.size() - got);
      if (part <= 0) throw Failure("rank {} has closed its socket", partner);
      got += static_cast<size_t>(part);
    }
    received += receive.size();
  }
  void note(const std::string&) override {}
  void note_wait(int64_t partner) override {
    std::lock_guard lock(mutex_);
    waits_.push_back(partner);
  }
  void set_timeout(double) override {}
  [[noreturn]] void fail(const std::string& message, int) override { end_rank("fail: " + message); }
  void finish() override {}
  std::vector<int64_t> waits() {
    std::lock_guard lock(mutex_);
    return waits_;
  }

  size_t received = 0;

 private:
  Sockets sockets_;
  std::mutex mutex_;
  std::vector<int64_t> waits_;
};

// Values whose sum depends on the order of every single addition.
Tensor values_of(Backend& backend, Stream& stream, DType type, int64_t rank, int64_t size) {
  Draws draws(11, static_cast<uint64_t>(rank), 0);
  std::vector<float> values(static_cast<size_t>(size));
  for (float& v : values) v = (2 * draws.uniform() - 1) * std::exp2(static_cast<float>(draws.below(24)));
  Tensor f32 = Tensor::from<float>(stream, {size}, values), result(stream, type, {size});
  backend.cast(stream, size, DType::f32, f32.data(), type, result.data());
  return result;
}

std::vector<std::byte> bytes_of(Team& team, const Tensor& tensor) {
  std::vector<std::byte> bytes(static_cast<size_t>(tensor.bytes()));
  team.run_one([&](Stream& stream) { stream.download(bytes.data(), tensor.data(), tensor.bytes()); });
  return bytes;
}

class NcclRanks : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, NcclRanks, ::testing::Values(DType::f32, DType::bf16),
                         [](const auto& info) { return std::string(name(info.param)); });

TEST_P(NcclRanks, SumsAreThoseThroughTheHostAndTheHostHasNoPartInThem) {
  for (int ranks : {2, 4}) {
    const Sockets sockets = make_sockets(ranks);
    auto body = [&](int number, const ncclUniqueId&) -> std::string {
      simt::set_schedule({.streams = simt::Schedule::Streams::kLate, .seed = static_cast<uint64_t>(number)});
      SocketRank host(number, ranks, sockets);
      std::unique_ptr<Backend> backend = make_backend("sim", {.place = host.place()});
      std::unique_ptr<Communicator> connected = backend->connect(host);
      Team team(*backend, 2, 1);
      for (int64_t size : {1, 5, 3000}) {
        Tensor by_host, by_nccl;
        team.run_one([&](Stream& stream) {
          by_host = values_of(*backend, stream, GetParam(), number, size);
          by_nccl = values_of(*backend, stream, GetParam(), number, size);
        });
        team.run_one([&](Stream& stream) { all_reduce(host, *backend, stream, by_host); });
        const size_t received = host.received;
        const size_t waits = host.waits().size();
        team.run_one([&](Stream& stream) { all_reduce(*connected, *backend, stream, by_nccl); });
        if (host.received != received) return "the host has received something";
        if (bytes_of(team, by_nccl) != bytes_of(team, by_host)) return "the sums differ";
        // Every transfer, of both phases, is noted, and its end.
        std::vector<int64_t> noted = host.waits();
        noted.erase(noted.begin(), noted.begin() + static_cast<std::ptrdiff_t>(waits));
        std::vector<int64_t> expected;
        for (int distance : ranks == 2 ? std::vector{1, 1} : std::vector{1, 2, 2, 1})
          expected.insert(expected.end(), {number ^ distance, -1});
        if (noted != expected) return fmt::format("waited for {}", fmt::join(noted, ", "));
      }
      return "";
    };
    EXPECT_THAT(on_ranks(ranks, body), Each(std::string()));
    for (const auto& [place, socket] : sockets) close(socket);
  }
}

TEST(NcclRanksErrors, AMismatchEndsBothAndNamesBoth) {
  const Sockets sockets = make_sockets(2);
  auto body = [&](int number, const ncclUniqueId&) -> std::string {
    SocketRank host(number, 2, sockets);
    std::unique_ptr<Backend> backend = make_backend("sim", {.place = host.place()});
    std::unique_ptr<Communicator> connected = backend->connect(host);
    Team team(*backend, 1, 1);
    team.run_one([&](Stream& stream) {
      Tensor values = Tensor::zeros(stream, DType::f32, {100 + number});
      all_reduce(*connected, *backend, stream, values);
    });
    return "no error";
  };
  EXPECT_THAT(on_ranks(2, body), Each(AllOf(HasSubstr("rank 0"), HasSubstr("rank 1"), HasSubstr("float32"))));
  for (const auto& [place, socket] : sockets) close(socket);
}

// An error that only NCCL knows of is found by asking it.
TEST(NcclRanksErrors, AnErrorThatComesLaterEndsTheRanksByItself) {
  const Sockets sockets = make_sockets(2);
  auto body = [&](int number, const ncclUniqueId&) -> std::string {
    simt::set_schedule({.streams = simt::Schedule::Streams::kLate});
    SocketRank host(number, 2, sockets);
    std::unique_ptr<Backend> backend = make_backend("sim", {.place = host.place()});
    std::unique_ptr<Communicator> connected = backend->connect(host);
    Team team(*backend, 1, 1);
    team.run_one([&](Stream& stream) {
      Tensor from = Tensor::zeros(stream, DType::f32, {100}), to(stream, DType::f32, {100 + number});
      connected->exchange_tensors(stream, 1 - number, from, to);
      cudaStreamSynchronize(cuda_stream(stream).handle());  // whose error nobody looks at
      usleep(20'000'000);
    });
    return "nobody has noticed";
  };
  EXPECT_THAT(on_ranks(2, body), Each(AllOf(HasSubstr("fail: NCCL on rank"), HasSubstr("invalid usage"),
                                            HasSubstr("float32 to rank"))));
  for (const auto& [place, socket] : sockets) close(socket);
}

TEST(NcclRanksErrors, FewerDevicesThanRanksOfAMachineAreRefused) {
  EXPECT_EQ(
      make_backend("sim", {.place = {.rank = 7, .ranks = 8, .local_rank = 7, .local_ranks = 8}})->name(),
      "sim");
  try {
    make_backend("sim", {.place = {.rank = 3, .ranks = 16, .local_rank = 3, .local_ranks = 9}});
    ADD_FAILURE() << "accepted";
  } catch (const UserError& error) {
    EXPECT_THAT(error.what(), HasSubstr("9 ranks on one machine need a GPU each, but rank 3 sees 8"));
  }
}

// A rank's kernels run on its own device: a thread that has not chosen it may not launch there.
TEST(NcclRanksErrors, AThreadOnAnotherDeviceMayNotLaunch) {
  std::unique_ptr<Backend> backend =
      make_backend("sim", {.place = {.rank = 1, .ranks = 2, .local_rank = 1, .local_ranks = 2}});
  Team team(*backend, 1, 1);
  team.run_one([&](Stream& stream) {  // whose thread has made it
    Tensor x = Tensor::zeros(stream, DType::f32, {8});
    auto launch = [&] { backend->add(stream, 8, DType::f32, x.data(), x.data(), x.data()); };
    launch();
    TAPER_CUDA(cudaSetDevice(0));
    EXPECT_THROW(launch(), CudaError);
  });
}

}  // namespace
}  // namespace taper
