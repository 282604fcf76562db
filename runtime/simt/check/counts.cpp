#include "runtime/simt/check/counts.h"

#include <algorithm>
#include <bit>
#include <set>
#include <tuple>

namespace taper::simt {

namespace {

constexpr size_t kMostRequests = 4096;

void add(Totals& sum, const Totals& one) {
  sum.requests += one.requests;
  sum.moved += one.moved;
  sum.least += one.least;
}

}  // namespace

// Null if there were too many.
Counts::Request* Counts::next_request(uint32_t thread, uint16_t site, bool shared, bool write) {
  Line& line = warps_[thread / 32][Key{site} << 2 | Key{shared} << 1 | Key{write}];
  uint16_t& done = line.done[thread % 32];
  if (done == kMostRequests) return nullptr;
  if (done == line.requests.size()) line.requests.emplace_back();
  return &line.requests[done++];
}

void Counts::access(uint32_t thread, uint16_t site, bool shared, bool write, uintptr_t address,
                    uint32_t bytes) {
  Request* request = next_request(thread, site, shared, write);
  if (request == nullptr) return;
  request->addresses[thread % 32] = address;
  request->lanes |= 1U << thread % 32;
  request->bytes = std::max(request->bytes, bytes);
}

void Counts::skip(uint32_t thread, uint16_t site, bool shared, bool write) {
  next_request(thread, site, shared, write);
}

// A pass serves 32 lanes of four bytes, 16 of eight or 8 of sixteen, and one word of each bank.
Totals Counts::shared_passes(const Request& request) {
  const uint32_t width = std::max(4U, request.bytes), lanes_at_once = 128 / width;
  Totals totals{.requests = 1};
  for (uint32_t first = 0; first < 32; first += lanes_at_once) {
    std::set<uintptr_t> words;
    for (uint32_t lane = first; lane < first + lanes_at_once; ++lane)
      if ((request.lanes >> lane & 1) != 0)
        for (uint32_t byte = 0; byte < width; byte += 4) words.insert((request.addresses[lane] + byte) / 4);
    if (words.empty()) continue;
    std::array<int, 32> in_bank{};
    for (uintptr_t word : words) ++in_bank[word % 32];
    totals.moved += *std::max_element(in_bank.begin(), in_bank.end());
    ++totals.least;
  }
  return totals;
}

Totals Counts::global_sectors(const Request& request) {
  constexpr uintptr_t kSector = 32;
  std::vector<std::pair<uintptr_t, uintptr_t>> spans;
  for (uint32_t lanes = request.lanes; lanes != 0; lanes &= lanes - 1) {
    uintptr_t address = request.addresses[std::countr_zero(lanes)];
    spans.emplace_back(address, address + request.bytes);
  }
  std::sort(spans.begin(), spans.end());
  std::set<uintptr_t> sectors;
  uintptr_t bytes = 0, end = 0;
  for (auto [first, last] : spans) {
    for (uintptr_t sector = first / kSector; sector <= (last - 1) / kSector; ++sector) sectors.insert(sector);
    if (last > end) bytes += last - std::max(first, end);
    end = std::max(end, last);
  }
  return {1, static_cast<int64_t>(sectors.size()), static_cast<int64_t>((bytes + kSector - 1) / kSector)};
}

void Counts::meet(uint32_t warp) {
  for (auto& [key, line] : warps_[warp]) {
    bool shared = (key & 2) != 0;
    for (const Request& request : line.requests)
      if (request.lanes != 0) add(launch_[key], shared ? shared_passes(request) : global_sectors(request));
    line.requests.clear();
    line.done.fill(0);
  }
}

void Counts::meet_all() {
  for (uint32_t warp = 0; warp < 32; ++warp) meet(warp);
}

void Counts::end_launch(const std::string& kernel) {
  meet_all();
  for (const auto& [key, totals] : launch_)
    add(totals_[{kernel, static_cast<uint16_t>(key >> 2), (key & 2) != 0, (key & 1) != 0}], totals);
  launch_.clear();
  for (auto& lines : warps_) lines.clear();
}

}  // namespace taper::simt
