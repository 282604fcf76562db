#pragma once
// TCP connections. What fails is a Failure that ends with the system's reason; nothing raises a signal. A
// deadline is a time of clock_now() (runtime/rank_watch.h).

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace taper {

/// A socket that is closed with its owner; none, to begin with.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int handle) : handle_(handle) {}
  Socket(Socket&& other) noexcept : handle_(std::exchange(other.handle_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Socket();
  int handle() const { return handle_; }
  bool open() const { return handle_ >= 0; }

 private:
  int handle_ = -1;
};

/// Whether this name or address means the machine itself, whoever uses it.
bool is_loopback(const std::string& host);

/// Listens at a port, 0 for any: at `host`, or where that is empty, at all of the machine's addresses.
Socket listen_at(const std::string& host, int64_t port);
int64_t port_of(const Socket& listener);

/// Tries until the deadline: whoever is to listen may come later.
Socket connect_to(const std::string& host, int64_t port, double deadline);
/// The next connection, or none if no one has come by the deadline.
Socket accept_from(const Socket& listener, double deadline);

/// The numeric addresses of a connection's two ends.
std::string own_address(const Socket& connection);
std::string other_address(const Socket& connection);

void send_all(const Socket& connection, std::span<const std::byte> bytes, double deadline);
void receive_all(const Socket& connection, std::span<std::byte> bytes, double deadline);

/// Waits for poll()'s `events` until the deadline, at least looking once. False: in vain.
bool wait_for(const Socket& socket, short events, double deadline);

/// The system's words for an errno.
std::string reason(int error);

}  // namespace taper
