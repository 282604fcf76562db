#include "runtime/communicator.h"

#include <cstring>

#include "runtime/error.h"
#include "runtime/tcp/communicator.h"

namespace taper {

void Communicator::exchange_tensors(Stream& stream, int64_t partner, const Tensor& send, Tensor& receive) {
  auto size = [](const Tensor& tensor) { return static_cast<size_t>(tensor.bytes()); };
  if (stream.on_host())
    return exchange(partner, {static_cast<const std::byte*>(send.data()), size(send)},
                    {static_cast<std::byte*>(receive.data()), size(receive)});
  std::vector<std::byte> out(size(send)), in(size(receive));
  stream.download(out.data(), send.data(), send.bytes());
  exchange(partner, out, in);
  stream.upload(receive.data(), in.data(), receive.bytes());
}

void Communicator::all_gather(std::span<std::byte> blocks) {
  auto ranks = static_cast<size_t>(place_.ranks), rank = static_cast<size_t>(place_.rank);
  TAPER_CHECK(blocks.size() % ranks == 0, "{} bytes over {} ranks", blocks.size(), ranks);
  size_t block = blocks.size() / ranks;
  for (size_t distance = 1; distance < ranks; distance *= 2) {
    // Each of the two holds the blocks of the `distance` ranks that differ from it in lower bits only.
    size_t partner = rank ^ distance, mine = rank & ~(distance - 1), theirs = partner & ~(distance - 1);
    exchange(static_cast<int64_t>(partner), blocks.subspan(mine * block, distance * block),
             blocks.subspan(theirs * block, distance * block));
  }
}

std::vector<std::string> Communicator::all_gather(const std::string& own) {
  auto ranks = static_cast<size_t>(place_.ranks), rank = static_cast<size_t>(place_.rank);
  std::vector<uint64_t> sizes(ranks);
  sizes[rank] = own.size();
  all_gather(std::as_writable_bytes(std::span(sizes)));
  uint64_t largest = 0;
  for (uint64_t size : sizes) largest = std::max(largest, size);
  if (largest == 0) return std::vector<std::string>(ranks);
  std::vector<std::byte> blocks(ranks * largest);
  std::memcpy(blocks.data() + rank * largest, own.data(), own.size());
  all_gather(blocks);
  std::vector<std::string> result;
  for (size_t i = 0; i < ranks; ++i)
    result.emplace_back(reinterpret_cast<const char*>(blocks.data()) + i * largest, sizes[i]);
  return result;
}

std::string Communicator::broadcast(const std::string& own) {
  std::string result = own;
  uint64_t size = own.size();
  // In each round the ranks below `distance` have it, and hand it on.
  for (int64_t distance = 1; distance < ranks(); distance *= 2) {
    if (rank() >= 2 * distance) continue;
    bool gives = rank() < distance;
    int64_t partner = rank() ^ distance;
    auto length = std::as_writable_bytes(std::span(&size, 1));
    exchange(partner, gives ? length : std::span<std::byte>(), gives ? std::span<std::byte>() : length);
    if (!gives) result.resize(size);
    auto content = std::as_writable_bytes(std::span(result));
    exchange(partner, gives ? content : std::span<std::byte>(), gives ? std::span<std::byte>() : content);
  }
  return result;
}

void Communicator::barrier() {
  for (int64_t distance = 1; distance < ranks(); distance *= 2) exchange(rank() ^ distance, {}, {});
}

bool Communicator::any(bool here) {
  std::vector<char> all(static_cast<size_t>(ranks()));
  all[static_cast<size_t>(rank())] = here ? 1 : 0;
  all_gather(std::as_writable_bytes(std::span(all)));
  for (char one : all) here = here || one != 0;
  return here;
}

void SingleProcess::exchange(int64_t partner, std::span<const std::byte>, std::span<std::byte>) {
  throw Failure("there is no rank {}: this process was started alone", partner);
}

void SingleProcess::fail(const std::string& message, int exit_code) { throw Error(message, exit_code); }

namespace {
// Seconds between the first and the last rank that comes: as long as a rank may keep others waiting.
constexpr double kPatience = 60;
}  // namespace

Communicator& only_rank() {
  static SingleProcess rank;
  return rank;
}

std::unique_ptr<Communicator> make_communicator(const Environment& environment) {
  RankPlace place = find_rank(environment);
  if (place.ranks == 1) return std::make_unique<SingleProcess>();
  if (place.starter == "RANK and WORLD_SIZE")
    return make_tcp_communicator(place, find_meeting_point(environment), kPatience);
  return make_mpi_communicator(place);
}

}  // namespace taper
