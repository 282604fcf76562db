#pragma once
// Groups the accesses of lanes, which run one after another here, into the requests that a warp makes at once
// on a device.

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace taper::simt {

/// An instruction of a kernel, with what it accesses.
struct Counted {
  std::string kernel;
  uint16_t site;
  bool shared, write;

  bool operator<(const Counted& other) const {
    return std::tie(kernel, site, shared, write) <
           std::tie(other.kernel, other.site, other.shared, other.write);
  }
};

struct Totals {
  int64_t requests = 0, moved = 0, least = 0;
};

class Counts {
 public:
  void access(uint32_t thread, uint16_t site, bool shared, bool write, uintptr_t address, uint32_t bytes);
  /// The thread takes part in a request and moves nothing.
  void skip(uint32_t thread, uint16_t site, bool shared, bool write);
  /// The lanes of a warp met: what each does next belongs together again.
  void meet(uint32_t warp);
  /// All warps did.
  void meet_all();
  /// Adds what was counted since to the totals, under this name.
  void end_launch(const std::string& kernel);

  const std::map<Counted, Totals>& totals() const { return totals_; }

 private:
  struct Request {
    std::array<uintptr_t, 32> addresses;
    uint32_t lanes = 0, bytes = 0;
  };
  /// A line's requests since the last meeting; the i-th access of each lane belongs to the i-th request.
  struct Line {
    std::array<uint16_t, 32> done{};
    std::vector<Request> requests;
  };
  using Key = uint32_t;  // site, shared, write

  Request* next_request(uint32_t thread, uint16_t site, bool shared, bool write);
  static Totals shared_passes(const Request& request);
  static Totals global_sectors(const Request& request);

  std::array<std::unordered_map<Key, Line>, 32> warps_;
  std::unordered_map<Key, Totals> launch_;
  std::map<Counted, Totals> totals_;
};

}  // namespace taper::simt
