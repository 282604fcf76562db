// Ranks that connect among themselves, by TCP.

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "runtime/error.h"
#include "runtime/tcp/meeting.h"

namespace taper {

namespace {

class TcpCommunicator final : public WatchedCommunicator {
 public:
  TcpCommunicator(const RankPlace& place, const MeetingPoint& point, double patience);
  ~TcpCommunicator() override { stop_watch(); }

  void exchange(int64_t partner, std::span<const std::byte> send, std::span<std::byte> receive) override;
  void finish() override {
    barrier();
    stop_watch();
    barrier();  // so that nobody misses one that has gone
  }

 private:
  void post(int64_t to, std::vector<std::byte> letter) override;
  bool posting(int64_t to) const override { return !ways_[static_cast<size_t>(to)].out.empty(); }
  void deliver() override;
  bool hung_up(int64_t rank) const override { return ways_[static_cast<size_t>(rank)].ended; }
  [[noreturn]] void end_as_told(int exit_code) override { _exit(exit_code); }
  [[noreturn]] void abort_all(int exit_code) override;
  [[noreturn]] void broken(int64_t partner, const std::string& why);

  // What letters go by. A letter is its size and its bytes.
  struct Way {
    Socket socket = {};
    std::vector<std::byte> out = {}, in = {};  // not sent yet; not read yet
    bool ended = false;
  };
  std::vector<Way> ways_;        // by rank, those to rank 0 or from it
  std::vector<Socket> sockets_;  // by rank, for everything else
};

TcpCommunicator::TcpCommunicator(const RankPlace& place, const MeetingPoint& point, double patience)
    : WatchedCommunicator(place) {
  Meeting meeting = meet(place, point, patience);
  for (Socket& socket : meeting.letters) ways_.push_back({.socket = std::move(socket)});
  std::vector<RankCard> cards;
  cards.reserve(meeting.seats.size());
  for (const RankSeat& seat : meeting.seats) cards.push_back(seat.card);
  begin_watch(cards);
  try {
    sockets_ = connect_partners(place, meeting, patience);
  } catch (const Error& error) {
    fail(error.what(), error.exit_code());
  }
}

// What is left of a header and a body, the first `done` bytes of which are through.
template <typename Byte>
msghdr rest_of(std::array<iovec, 2>& parts, std::span<Byte> header, std::span<Byte> body, size_t done) {
  const size_t of_header = std::min(done, header.size());
  auto part = [](std::span<Byte> bytes) { return iovec{const_cast<std::byte*>(bytes.data()), bytes.size()}; };
  parts = {part(header.subspan(of_header)), part(body.subspan(done - of_header))};
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  return message;
}

// A message is its size and its bytes. Both directions go on as the sockets let them, so that no two ranks
// wait for each other to receive.
void TcpCommunicator::exchange(int64_t partner, std::span<const std::byte> send,
                               std::span<std::byte> receive) {
  const Socket& socket = sockets_.at(static_cast<size_t>(partner));
  TAPER_CHECK(socket.open(), "rank {} has no connection to rank {}", rank(), partner);
  const uint64_t size = send.size();
  uint64_t their_size = 0;
  const auto header = std::as_bytes(std::span(&size, 1));
  const auto their_header = std::as_writable_bytes(std::span(&their_size, 1));
  const size_t to_send = header.size() + send.size(), to_get = header.size() + receive.size();
  size_t sent = 0, got = 0;
  bool told = false;
  std::array<iovec, 2> parts{};
  while (sent < to_send || got < to_get) {
    bool moved = false;
    auto count = [&](ssize_t done, size_t& total) {
      if (done > 0) total += static_cast<size_t>(done);
      moved = moved || done > 0;
      if (done < 0 && errno != EAGAIN && errno != EINTR) broken(partner, reason(errno));
    };
    if (sent < to_send) {
      const msghdr message = rest_of(parts, header, send, sent);
      count(sendmsg(socket.handle(), &message, MSG_NOSIGNAL), sent);
    }
    if (got < to_get) {
      // Of the body nothing before its size is known to be right.
      const bool whole = got >= header.size();
      msghdr message = rest_of(parts, their_header, receive, got);
      if (!whole) message.msg_iovlen = 1;
      const ssize_t done = recvmsg(socket.handle(), &message, 0);
      if (done == 0) broken(partner, "the other side has ended it");
      count(done, got);
      if (!whole && got == header.size() && their_size != receive.size())
        throw Failure("rank {} sent {} bytes where rank {} expected {}", partner, their_size, rank(),
                      receive.size());
    }
    if (moved) continue;
    const auto events = static_cast<short>((sent < to_send ? POLLOUT : 0) | (got < to_get ? POLLIN : 0));
    // At first the other is about to come.
    if (!wait_for(socket, events, clock_now() + (told ? 1.0 : 1e-3)) && !std::exchange(told, true))
      note_wait(partner);
  }
  if (told) note_wait(-1);
}

// A partner that has died, or ends because another has, breaks its connections as well: the watch knows more
// of it, and ends this process.
void TcpCommunicator::broken(int64_t partner, const std::string& why) {
  note_wait(partner);
  std::this_thread::sleep_for(std::chrono::duration<double>(3 * kGrace));
  throw Failure("the connection to rank {} is broken: {}", partner, why);
}

void TcpCommunicator::post(int64_t to, std::vector<std::byte> letter) {
  Way& way = ways_[static_cast<size_t>(to)];
  const uint64_t size = letter.size();
  const auto header = std::as_bytes(std::span(&size, 1));
  way.out.insert(way.out.end(), header.begin(), header.end());
  way.out.insert(way.out.end(), letter.begin(), letter.end());
  deliver();
}

void TcpCommunicator::deliver() {
  for (size_t from = 0; from < ways_.size(); ++from) {
    Way& way = ways_[from];
    if (!way.socket.open() || way.ended) continue;
    while (!way.out.empty()) {
      const ssize_t done = ::send(way.socket.handle(), way.out.data(), way.out.size(), MSG_NOSIGNAL);
      if (done <= 0) break;  // what is the matter shows in reading
      way.out.erase(way.out.begin(), way.out.begin() + done);
    }
    std::array<std::byte, 4096> part;
    ssize_t done = 0;
    while ((done = recv(way.socket.handle(), part.data(), part.size(), 0)) > 0)
      way.in.insert(way.in.end(), part.begin(), part.begin() + done);
    way.ended = done == 0 || (errno != EAGAIN && errno != EINTR);
    uint64_t size = 0;
    while (way.in.size() >= sizeof size) {
      std::memcpy(&size, way.in.data(), sizeof size);
      if (way.in.size() - sizeof size < size) break;
      const auto end = way.in.begin() + static_cast<ptrdiff_t>(sizeof size + size);
      const std::vector<std::byte> letter(way.in.begin() + sizeof size, end);
      way.in.erase(way.in.begin(), end);
      read(static_cast<int64_t>(from), letter);
    }
  }
}

void TcpCommunicator::abort_all(int exit_code) {
  std::unique_lock lock(mutex_, std::chrono::seconds(1));
  if (lock) {
    auto all_ended = [&] {
      deliver();
      return std::ranges::all_of(ways_, [](const Way& way) { return !way.socket.open() || way.ended; });
    };
    const double deadline = clock_now() + kGrace;
    while (!all_ended() && clock_now() < deadline) usleep(10'000);
  }
  // Nobody else would: the one that was stopped cannot end by itself.
  for (size_t other = 0; other < ways_.size(); ++other)
    if (ways_[other].socket.open() && !ways_[other].ended) kill_near(static_cast<int64_t>(other));
  _exit(exit_code);
}

}  // namespace

std::unique_ptr<Communicator> make_tcp_communicator(const RankPlace& place, const MeetingPoint& point,
                                                    double patience) {
  return std::make_unique<TcpCommunicator>(place, point, patience);
}

}  // namespace taper
