#include "runtime/tcp/meeting.h"

#include <fmt/ranges.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <random>

#include "runtime/error.h"
#include "runtime/rank_watch.h"

namespace taper {

namespace {

// What the first bytes of a connection say: who knocks at a port need not be a rank.
constexpr uint64_t kComes = 0x5441504552'0001, kGreets = 0x5441504552'0002;
// Seconds for a message that has been begun, or needs no thought.
constexpr double kMoment = 5;

struct Hello {  // a rank to rank 0
  uint64_t kind = kComes;
  int64_t rank = 0, ranks = 0, port = 0;
  RankCard card;
};
struct Answer {  // rank 0 to each rank: all have come, and the seats follow; or all end
  int64_t exit_code = 0;
  uint64_t run = 0;
};
struct Greeting {  // a rank to its partner
  uint64_t kind = kGreets, run = 0;
  int64_t rank = 0;
};

template <typename T>
std::span<std::byte> bytes_of_one(T& value) {
  return std::as_writable_bytes(std::span(&value, 1));
}

// Rank 0, to whom the others come.
class Host {
 public:
  Host(const RankPlace& place, const MeetingPoint& point, double patience)
      : place_(place), point_(point), patience_(patience), deadline_(clock_now() + patience) {
    try {
      meeting_.listener = listen_at(is_loopback(point.host) ? point.host : "", point.port);
    } catch (const Failure& failure) {
      throw UserError(
          "rank 0 cannot listen at MASTER_ADDR={} MASTER_PORT={}: {}; choose another MASTER_PORT for all "
          "ranks, unless another process was started with RANK=0",
          point.host, point.port, failure.what());
    }
    const auto ranks = static_cast<size_t>(place.ranks);
    meeting_.run = (uint64_t{std::random_device()()} << 32) | std::random_device()();
    meeting_.seats.resize(ranks);
    meeting_.letters.resize(ranks);
    meeting_.seats[0] = {.card = own_card(), .port = point.port};
  }

  Meeting meet() {
    while (!missing().empty()) {
      if (clock_now() > deadline_)
        refuse(
            fmt::format("{} of {} ranks did not come to {}:{} within {:.0f} s: rank {}; start all with the "
                        "same MASTER_ADDR, MASTER_PORT and WORLD_SIZE",
                        missing().size(), place_.ranks, point_.host, point_.port, patience_,
                        fmt::join(missing(), ", rank ")),
            1);
      look();
    }
    require_one_network();
    Answer answer{.run = meeting_.run};
    for (int64_t rank = 1; rank < place_.ranks; ++rank) {
      Socket& socket = meeting_.letters[static_cast<size_t>(rank)];
      try {
        send_all(socket, bytes_of_one(answer), clock_now() + kMoment);
        send_all(socket, std::as_bytes(std::span(meeting_.seats)), clock_now() + kMoment);
      } catch (const Failure& failure) {
        refuse(fmt::format("rank {} was lost while the ranks met: {}", rank, failure.what()), 1);
      }
    }
    return std::move(meeting_);
  }

 private:
  struct Caller {
    Socket socket;
    Hello hello;
    size_t got = 0;  // bytes of it
    bool gone = false;
  };

  std::vector<int64_t> missing() const {
    std::vector<int64_t> ranks;
    for (int64_t rank = 1; rank < place_.ranks; ++rank)
      if (!meeting_.letters[static_cast<size_t>(rank)].open()) ranks.push_back(rank);
    return ranks;
  }

  // Waits for a moment, and takes what has come.
  void look() {
    std::vector<pollfd> all = {{meeting_.listener.handle(), POLLIN, 0}};
    for (const Caller& caller : callers_) all.push_back({caller.socket.handle(), POLLIN, 0});
    // Who has come says nothing more before it is answered; if there is something to read, it has gone.
    for (const Socket& socket : meeting_.letters) all.push_back({socket.handle(), POLLIN, 0});
    poll(all.data(), all.size(), 100);
    for (size_t i = 0; i < meeting_.letters.size(); ++i)
      if (all[1 + callers_.size() + i].revents != 0) meeting_.letters[i] = Socket();
    for (size_t i = 0; i < callers_.size(); ++i)
      if (all[1 + i].revents != 0) listen_to(callers_[i]);
    std::erase_if(callers_, [](const Caller& caller) { return caller.gone; });
    if (all[0].revents != 0)
      if (Socket socket = accept_from(meeting_.listener, 0); socket.open())
        callers_.push_back({.socket = std::move(socket), .hello = {}});
  }

  void listen_to(Caller& caller) {
    auto rest = bytes_of_one(caller.hello).subspan(caller.got);
    const ssize_t done = recv(caller.socket.handle(), rest.data(), rest.size(), MSG_DONTWAIT);
    caller.got += done > 0 ? static_cast<size_t>(done) : 0;
    caller.gone = done == 0 || (done < 0 && errno != EAGAIN) ||
                  (caller.got >= sizeof caller.hello.kind && caller.hello.kind != kComes);
    if (caller.gone || caller.got < sizeof caller.hello) return;
    caller.gone = true;  // from the callers
    const Hello& hello = caller.hello;
    const std::string name = name_of(hello.rank, hello.card);
    const auto seat = static_cast<size_t>(hello.rank);
    std::string sentence;
    if (hello.ranks != place_.ranks)
      sentence = fmt::format("{} was started with WORLD_SIZE={}, but rank 0 with WORLD_SIZE={}", name,
                             hello.ranks, place_.ranks);
    else if (seat == 0 || meeting_.letters[seat].open())
      sentence = fmt::format("two processes were started with RANK={}: {} and {}", hello.rank,
                             name_of(hello.rank, meeting_.seats[seat].card), name);
    if (!sentence.empty()) {
      tell_end(caller.socket, 2);
      refuse(sentence + "; each rank needs a RANK of its own, and all the same WORLD_SIZE", 2);
    }
    meeting_.seats[seat] = {.card = hello.card, .port = hello.port};
    other_address(caller.socket).copy(meeting_.seats[seat].address.data(), sizeof(RankSeat::address) - 1);
    meeting_.letters[seat] = std::move(caller.socket);
  }

  // A rank that found rank 0 on the machine's own loopback is not reached there by another machine's.
  void require_one_network() {
    auto address = [&](int64_t rank) {
      return std::string(meeting_.seats[static_cast<size_t>(rank)].address.data());
    };
    for (int64_t near = 1; near < place_.ranks; ++near)
      for (int64_t far = 1; far < place_.ranks; ++far)
        if (is_loopback(address(near)) && !is_loopback(address(far)))
          refuse(fmt::format("MASTER_ADDR={} is {} for rank {}, which other machines (rank {}, at {}) cannot "
                             "reach; set it to this machine's address in their network",
                             point_.host, address(near), near, far, address(far)),
                 2);
  }

  static void tell_end(const Socket& socket, int exit_code) {
    Answer answer{.exit_code = exit_code};
    try {
      send_all(socket, bytes_of_one(answer), clock_now() + kMoment);
    } catch (const Failure&) {
      return;  // it has gone already
    }
  }
  [[noreturn]] void refuse(const std::string& sentence, int exit_code) {
    for (const Socket& socket : meeting_.letters)
      if (socket.open()) tell_end(socket, exit_code);
    throw Error(sentence, exit_code);
  }

  const RankPlace& place_;
  const MeetingPoint& point_;
  const double patience_, deadline_;
  Meeting meeting_;
  std::vector<Caller> callers_;
};

Meeting come(const RankPlace& place, const MeetingPoint& point, double patience) {
  Meeting meeting;
  Socket first;
  try {
    first = connect_to(point.host, point.port, clock_now() + patience);
  } catch (const Failure& failure) {
    throw Failure(
        "rank {} could not reach rank 0 at MASTER_ADDR={} MASTER_PORT={} within {:.0f} s: {}; rank 0 listens "
        "there while it waits for the others",
        place.rank, point.host, point.port, patience, failure.what());
  }
  Answer answer;
  meeting.seats.resize(static_cast<size_t>(place.ranks));
  try {
    meeting.listener = listen_at(own_address(first), 0);
    Hello hello{
        .rank = place.rank, .ranks = place.ranks, .port = port_of(meeting.listener), .card = own_card()};
    send_all(first, bytes_of_one(hello), clock_now() + kMoment);
    // Rank 0 may have been started later than this one, and waits as long for the last.
    receive_all(first, bytes_of_one(answer), clock_now() + patience + kMoment);
    if (answer.exit_code != 0) _exit(static_cast<int>(answer.exit_code));
    receive_all(first, std::as_writable_bytes(std::span(meeting.seats)), clock_now() + kMoment);
  } catch (const Failure& failure) {
    throw Failure(
        "rank {} came to {}:{}, but whoever listens there did not take it as one of its ranks: {}; is that "
        "rank 0 of this run?",
        place.rank, point.host, point.port, failure.what());
  }
  meeting.run = answer.run;
  other_address(first).copy(meeting.seats[0].address.data(), sizeof(RankSeat::address) - 1);
  meeting.letters.resize(static_cast<size_t>(place.ranks));
  meeting.letters[0] = std::move(first);
  return meeting;
}

}  // namespace

MeetingPoint find_meeting_point(const Environment& environment) {
  for (const char* name : {"MASTER_ADDR", "MASTER_PORT"})
    if (environment(name).value_or("").empty())
      throw UserError(
          "the environment has RANK and WORLD_SIZE without {}; ranks that neither mpirun nor srun starts "
          "meet "
          "at MASTER_ADDR, the machine of rank 0 (127.0.0.1 where all are on one), and MASTER_PORT, a free "
          "port there",
          name);
  const std::string text = *environment("MASTER_PORT");
  int64_t port = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  const int64_t further = environment("TORCHELASTIC_USE_AGENT_STORE").value_or("") == "True" ? 1 : 0;
  if (error != std::errc() || stop != text.data() + text.size() || port < 1 || port + further > 65535)
    throw UserError("the environment has MASTER_PORT={}, expected a port from 1 to {}", text,
                    65535 - further);
  return {*environment("MASTER_ADDR"), port + further};
}

Meeting meet(const RankPlace& place, const MeetingPoint& point, double patience) {
  return place.rank == 0 ? Host(place, point, patience).meet() : come(place, point, patience);
}

std::vector<Socket> connect_partners(const RankPlace& place, const Meeting& meeting, double patience) {
  const double deadline = clock_now() + patience;
  std::vector<Socket> sockets(static_cast<size_t>(place.ranks));
  size_t expected = 0;
  for (int64_t bit = 1; bit < place.ranks; bit *= 2) {
    const int64_t partner = place.rank ^ bit;
    expected += partner > place.rank && partner < place.ranks ? 1 : 0;
    if (partner > place.rank) continue;
    const RankSeat& seat = meeting.seats[static_cast<size_t>(partner)];
    try {
      Socket socket = connect_to(seat.address.data(), seat.port, deadline);
      Greeting greeting{.run = meeting.run, .rank = place.rank};
      send_all(socket, bytes_of_one(greeting), deadline);
      sockets[static_cast<size_t>(partner)] = std::move(socket);
    } catch (const Failure& failure) {
      throw Failure("no connection to {} at {}:{}: {}", name_of(partner, seat.card), seat.address.data(),
                    seat.port, failure.what());
    }
  }
  while (expected > 0) {
    Socket socket = accept_from(meeting.listener, deadline);
    if (clock_now() > deadline) throw Failure("{} ranks did not connect to this one", expected);
    if (!socket.open()) continue;
    Greeting greeting;
    try {
      receive_all(socket, bytes_of_one(greeting), std::min(deadline, clock_now() + kMoment));
    } catch (const Failure&) {
      continue;  // no rank
    }
    if (greeting.kind != kGreets || greeting.run != meeting.run) continue;
    sockets[static_cast<size_t>(greeting.rank)] = std::move(socket);
    --expected;
  }
  return sockets;
}

}  // namespace taper
