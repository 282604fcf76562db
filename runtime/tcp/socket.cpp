#include "runtime/tcp/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <memory>
#include <system_error>

#include "runtime/error.h"
#include "runtime/rank_watch.h"

namespace taper {

namespace {

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

// Of a name, by the system's resolver; empty: all of this machine's. `error` is getaddrinfo's.
Addresses resolve(const std::string& host, int64_t port, int& error) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | AI_PASSIVE;
  error = getaddrinfo(host.empty() ? nullptr : host.c_str(), std::to_string(port).c_str(), &hints, &found);
  return {found, freeaddrinfo};
}

void set_option(int handle, int level, int option, int value) {
  setsockopt(handle, level, option, &value, sizeof value);
}

// 0, or why there is no connection.
int try_connect(const Socket& socket, const addrinfo& address, double deadline) {
  if (connect(socket.handle(), address.ai_addr, address.ai_addrlen) == 0) return 0;
  if (errno != EINPROGRESS) return errno;
  if (!wait_for(socket, POLLOUT, deadline)) return ETIMEDOUT;
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(socket.handle(), SOL_SOCKET, SO_ERROR, &error, &size);
  return error;
}

using NameOf = int (*)(int, sockaddr*, socklen_t*);
std::string address_by(NameOf name_of, const Socket& connection) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  std::array<char, NI_MAXHOST> text{};
  auto* pointer = reinterpret_cast<sockaddr*>(&address);
  if (name_of(connection.handle(), pointer, &size) != 0) throw Failure("{}", reason(errno));
  getnameinfo(pointer, size, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST);
  std::string result = text.data();
  // An IPv4 address, as a socket shows it that listens for both kinds.
  const std::string mapped = "::ffff:";
  return result.starts_with(mapped) ? result.substr(mapped.size()) : result;
}

}  // namespace

Socket::~Socket() {
  if (handle_ >= 0) close(handle_);
}

std::string reason(int error) { return std::generic_category().message(error); }

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

bool wait_for(const Socket& socket, short events, double deadline) {
  while (true) {
    const double left = std::clamp(deadline - clock_now(), 0.0, 1e3);
    pollfd one{socket.handle(), events, 0};
    const int ready = poll(&one, 1, static_cast<int>(std::ceil(1e3 * left)));
    if (ready > 0) return true;
    if (ready == 0 && left < 1e3) return false;
    if (ready < 0 && errno != EINTR) throw Failure("poll: {}", reason(errno));
  }
}

Socket listen_at(const std::string& host, int64_t port) {
  int error = 0;
  const Addresses addresses = resolve(host, port, error);
  if (error != 0) throw Failure("{}", gai_strerror(error));
  // An IPv6 socket for all addresses serves IPv4 as well.
  std::array families = {AF_INET6, AF_INET};
  if (!host.empty()) std::ranges::reverse(families);
  for (const int family : families)
    for (const addrinfo* address = addresses.get(); address != nullptr; address = address->ai_next) {
      if (address->ai_family != family) continue;
      Socket socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      error = errno;
      if (!socket.open()) continue;
      set_option(socket.handle(), SOL_SOCKET, SO_REUSEADDR, 1);  // also right after a run that had this port
      if (family == AF_INET6) set_option(socket.handle(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
      if (bind(socket.handle(), address->ai_addr, address->ai_addrlen) == 0 &&
          listen(socket.handle(), SOMAXCONN) == 0)
        return socket;
      error = errno;
      if (error == EADDRINUSE) throw Failure("{}", reason(error));
    }
  throw Failure("{}", reason(error));
}

int64_t port_of(const Socket& listener) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (getsockname(listener.handle(), reinterpret_cast<sockaddr*>(&address), &size) != 0)
    throw Failure("{}", reason(errno));
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

Socket connect_to(const std::string& host, int64_t port, double deadline) {
  while (true) {
    int error = 0;
    const Addresses addresses = resolve(host, port, error);
    if (error != 0 && error != EAI_AGAIN) throw Failure("{}", gai_strerror(error));
    std::string why = error != 0 ? gai_strerror(error) : "";
    for (const addrinfo* address = addresses.get(); address != nullptr; address = address->ai_next) {
      Socket socket(::socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      if (!socket.open()) continue;
      error = try_connect(socket, *address, deadline);
      set_option(socket.handle(), IPPROTO_TCP, TCP_NODELAY, 1);
      if (error == 0) return socket;
      why = reason(error);
    }
    if (clock_now() > deadline) throw Failure("{}", why);
    usleep(50'000);
  }
}

Socket accept_from(const Socket& listener, double deadline) {
  if (!wait_for(listener, POLLIN, deadline)) return {};
  Socket socket(accept4(listener.handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (socket.open()) set_option(socket.handle(), IPPROTO_TCP, TCP_NODELAY, 1);
  return socket;  // none, too, where whoever was there has gone again
}

std::string own_address(const Socket& connection) { return address_by(getsockname, connection); }
std::string other_address(const Socket& connection) { return address_by(getpeername, connection); }

void send_all(const Socket& connection, std::span<const std::byte> bytes, double deadline) {
  while (!bytes.empty()) {
    const ssize_t done = send(connection.handle(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (done >= 0)
      bytes = bytes.subspan(static_cast<size_t>(done));
    else if (errno != EAGAIN && errno != EINTR)
      throw Failure("{}", reason(errno));
    else if (!wait_for(connection, POLLOUT, deadline))
      throw Failure("{}", reason(ETIMEDOUT));
  }
}

void receive_all(const Socket& connection, std::span<std::byte> bytes, double deadline) {
  while (!bytes.empty()) {
    const ssize_t done = recv(connection.handle(), bytes.data(), bytes.size(), 0);
    if (done > 0)
      bytes = bytes.subspan(static_cast<size_t>(done));
    else if (done == 0)
      throw Failure("the other side has ended the connection");
    else if (errno != EAGAIN && errno != EINTR)
      throw Failure("{}", reason(errno));
    else if (!wait_for(connection, POLLIN, deadline))
      throw Failure("{}", reason(ETIMEDOUT));
  }
}

}  // namespace taper
