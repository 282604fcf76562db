#include "runtime/simt/nccl_board.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "runtime/error.h"

namespace taper::simt {

namespace {

constexpr auto kPatience = std::chrono::seconds(60);
constexpr auto kGrace = std::chrono::seconds(3);
constexpr useconds_t kAttachPause = 1000;

const char* name_of(ncclDataType_t type) {
  constexpr const char* kNames[] = {"int8",   "uint8",   "int32",   "uint32",  "int64",
                                    "uint64", "float16", "float32", "float64", "bfloat16"};
  return kNames[type];
}

}  // namespace

size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8:
      return 1;
    case ncclFloat16:
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
      return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
      return 8;
  }
  return 0;
}

std::string describe(const NcclCall& call) {
  return fmt::format("{} {} {} {} rank {}", call.sends ? "sends" : "receives", call.count, name_of(call.type),
                     call.sends ? "to" : "from", call.peer);
}

// Followed by the seats, and the channels by (from, to). The memory is zeros before anybody writes.
struct NcclBoard::Header {
  std::atomic<uint32_t> ready;
  int ranks;
  pthread_mutex_t mutex;
  char refusal[512];  // of a rank that could not join
};

NcclBoard::Lock::Lock(NcclBoard& board) : mutex_(board.header_->mutex) {
  if (pthread_mutex_lock(&mutex_) == EOWNERDEAD) pthread_mutex_consistent(&mutex_);
}
NcclBoard::Lock::~Lock() { pthread_mutex_unlock(&mutex_); }

NcclBoard::NcclBoard(const std::string& name, int rank, int ranks) : ranks_(ranks) {
  auto count = static_cast<size_t>(ranks);
  bytes_ = sizeof(Header) + count * sizeof(Seat) + count * count * sizeof(Channel);
  open(name, rank);
  try {
    join(rank);
    wait_for_all(name, rank);
  } catch (...) {
    munmap(header_, bytes_);
    throw;
  }
  for (int i = 0; i < ranks; ++i)
    deaths_.push_back(static_cast<int>(syscall(SYS_pidfd_open, seat(i).process, 0)));
  gone_since_.resize(count);
}

NcclBoard::~NcclBoard() {
  for (int death : deaths_) close(death);
  munmap(header_, bytes_);
}

NcclBoard::Seat& NcclBoard::seat(int rank) { return reinterpret_cast<Seat*>(header_ + 1)[rank]; }

NcclBoard::Channel& NcclBoard::channel(int from, int to) {
  return reinterpret_cast<Channel*>(&seat(ranks_))[from * ranks_ + to];
}

// Rank 0 makes the memory, the others find it.
void NcclBoard::open(const std::string& name, int rank) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  int file = -1;
  while (file < 0) {
    file = shm_open(name.c_str(), rank == 0 ? O_CREAT | O_EXCL | O_RDWR : O_RDWR, 0600);
    if (file >= 0) break;
    if (rank == 0 || errno != ENOENT) throw Failure("shm_open of {} failed: {}", name, std::strerror(errno));
    if (std::chrono::steady_clock::now() > deadline)
      throw Failure(
          "rank {} waits for rank 0 to call ncclCommInitRank for a minute; the simulated NCCL connects ranks "
          "of one machine only",
          rank);
    usleep(kAttachPause);
  }
  auto map = [&](size_t bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) throw Failure("mmap of {} failed: {}", name, std::strerror(errno));
    return static_cast<Header*>(memory);
  };
  if (rank == 0) {
    if (int error = posix_fallocate(file, 0, static_cast<off_t>(bytes_)); error != 0) {
      shm_unlink(name.c_str());
      throw Failure("/dev/shm has no {} bytes left: {}", bytes_, std::strerror(error));
    }
    header_ = map(bytes_);
    header_->ranks = ranks_;
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&header_->mutex, &attributes);
    header_->ready.store(1, std::memory_order_release);
  } else {
    struct stat status {};
    while (fstat(file, &status) == 0 && status.st_size < static_cast<off_t>(sizeof(Header)))
      usleep(kAttachPause);
    header_ = map(sizeof(Header));
    while (header_->ready.load(std::memory_order_acquire) == 0) usleep(kAttachPause);
    if (header_->ranks != ranks_) {
      const std::string refusal = fmt::format(
          "rank {} calls ncclCommInitRank for {} ranks, but rank 0 for {}", rank, ranks_, header_->ranks);
      {
        Lock lock(*this);
        fmt::format_to_n(header_->refusal, sizeof header_->refusal - 1, "{}", refusal);
      }
      munmap(header_, sizeof(Header));
      close(file);
      throw Failure("{}", refusal);
    }
    munmap(header_, sizeof(Header));
    header_ = map(bytes_);
  }
  close(file);
}

void NcclBoard::join(int rank) {
  Lock lock(*this);
  Seat& own = seat(rank);
  if (own.state != Seat::State::absent) {
    fmt::format_to_n(header_->refusal, sizeof header_->refusal - 1,
                     "processes {} and {} both call ncclCommInitRank as rank {}", own.process, getpid(),
                     rank);
    throw Failure("{}", header_->refusal);
  }
  own.process = getpid();
  own.state = Seat::State::present;
}

void NcclBoard::wait_for_all(const std::string& name, int rank) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  std::string failure;
  while (true) {
    int absent = -1;
    {
      Lock lock(*this);
      failure = header_->refusal;
      for (int i = 0; i < ranks_; ++i)
        if (seat(i).state == Seat::State::absent) absent = i;
    }
    if (absent < 0 || !failure.empty()) break;
    if (std::chrono::steady_clock::now() > deadline) {
      failure = fmt::format("rank {} waits for rank {} to call ncclCommInitRank for a minute", rank, absent);
      break;
    }
    usleep(kAttachPause);
  }
  // All have it open: the name is needed no more, and would outlive them.
  if (rank == 0) shm_unlink(name.c_str());
  if (!failure.empty()) throw Failure("{}", failure);
}

std::string NcclBoard::gone(int rank) {
  const Seat& other = seat(rank);
  pollfd death{deaths_[static_cast<size_t>(rank)], POLLIN, 0};
  const bool died = death.fd < 0 || poll(&death, 1, 0) == 1;
  if (other.state == Seat::State::present && !died) return "";
  const auto now = std::chrono::steady_clock::now();
  auto& since = gone_since_[static_cast<size_t>(rank)];
  if (since == decltype(now)()) since = now;
  if (now - since < kGrace) return "";
  if (other.state == Seat::State::left) return "has left with ncclCommDestroy";
  if (other.state == Seat::State::failed) return fmt::format("has failed: {}", other.failure);
  return "has died";
}

}  // namespace taper::simt
