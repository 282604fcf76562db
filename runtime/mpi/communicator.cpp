// Ranks on MPI. Of MPI only what cannot decide a bit is used: point to point messages, and a gather of
// addresses.

#include <mpi.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <list>
#include <thread>
#include <utility>

#include "runtime/error.h"
#include "runtime/library_sum.h"
#include "runtime/watched_communicator.h"

namespace taper {

namespace {

// Sent at a time: small enough that MPI's count, an int, holds it.
constexpr size_t kPiece = size_t{64} << 20;
void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw Failure("{} failed: {}", call, text.data());
}

class MpiCommunicator final : public WatchedCommunicator, public LibrarySum {
 public:
  explicit MpiCommunicator(const RankPlace& place);
  ~MpiCommunicator() override { stop_watch(); }

  void exchange(int64_t partner, std::span<const std::byte> send, std::span<std::byte> receive) override;
  void sum(Stream& stream, Tensor& values) override;
  void finish() override;

 private:
  void post(int64_t to, std::vector<std::byte> letter) override;
  bool posting(int64_t to) const override;
  void deliver() override;
  [[noreturn]] void end_as_told(int exit_code) override;
  [[noreturn]] void abort_all(int exit_code) override;
  void wait(std::span<MPI_Request> requests, int64_t partner);

  // MPI is entered by one thread at a time (MPI_THREAD_SERIALIZED), under mutex_.
  MPI_Comm data_ = MPI_COMM_NULL, letters_ = MPI_COMM_NULL;
  struct Posted {
    int64_t to;
    std::vector<std::byte> bytes;
    MPI_Request request;
  };
  std::list<Posted> posted_;
};

MpiCommunicator::MpiCommunicator(const RankPlace& place) : WatchedCommunicator(place) {
  int provided = 0, rank = 0, ranks = 0;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
  if (provided < MPI_THREAD_SERIALIZED)
    throw UserError(
        "this MPI lets no second thread call it (MPI_THREAD_SERIALIZED); use Open MPI 3 or later");
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  if (rank != place.rank || ranks != place.ranks)
    throw UserError(
        "{} started rank {} of {}, but MPI sees rank {} of {}; start it with this MPI's mpirun, or with srun "
        "--mpi "
        "and what `srun --mpi=list` has for it",
        place.starter, place.rank, place.ranks, rank, ranks);
  for (MPI_Comm* communicator : {&data_, &letters_}) {
    check(MPI_Comm_dup(MPI_COMM_WORLD, communicator), "MPI_Comm_dup");
    MPI_Comm_set_errhandler(*communicator, MPI_ERRORS_RETURN);
  }
  std::vector<RankCard> cards(static_cast<size_t>(ranks));
  RankCard own = own_card();
  check(MPI_Allgather(&own, sizeof own, MPI_BYTE, cards.data(), sizeof own, MPI_BYTE, data_),
        "MPI_Allgather");
  begin_watch(cards);
}

void MpiCommunicator::exchange(int64_t partner, std::span<const std::byte> send,
                               std::span<std::byte> receive) {
  size_t total = std::max(send.size(), receive.size()), begin = 0;
  do {
    auto piece = [&](size_t size) {
      return static_cast<int>(std::min(kPiece, size - std::min(size, begin)));
    };
    std::array<MPI_Request, 2> requests{};
    {
      std::lock_guard lock(mutex_);
      check(MPI_Irecv(receive.data() + begin, piece(receive.size()), MPI_BYTE, static_cast<int>(partner), 0,
                      data_, &requests[0]),
            "MPI_Irecv");
      check(MPI_Isend(send.data() + begin, piece(send.size()), MPI_BYTE, static_cast<int>(partner), 0, data_,
                      &requests[1]),
            "MPI_Isend");
    }
    wait(requests, partner);
    begin += kPiece;
  } while (begin < total);
}

void MpiCommunicator::sum(Stream& stream, Tensor& values) {
  TAPER_CHECK(values.dtype() == DType::f32, "a sum of {} by MPI", name(values.dtype()));
  std::vector<float> copy(stream.on_host() ? 0 : static_cast<size_t>(values.size()));
  if (!stream.on_host()) stream.download(copy.data(), values.data(), values.bytes());
  auto* data = stream.on_host() ? static_cast<float*>(values.data()) : copy.data();
  constexpr auto kCount = static_cast<int64_t>(kPiece / sizeof(float));
  for (int64_t begin = 0; begin < values.size(); begin += kCount) {
    std::array<MPI_Request, 1> request{};
    {
      std::lock_guard lock(mutex_);
      // MPI_Allreduce would wait inside.
      check(MPI_Iallreduce(MPI_IN_PLACE, data + begin,
                           static_cast<int>(std::min(kCount, values.size() - begin)), MPI_FLOAT, MPI_SUM,
                           data_, request.data()),
            "MPI_Iallreduce");
    }
    wait(request, kEveryRank);
  }
  if (!stream.on_host()) stream.upload(values.data(), copy.data(), values.bytes());
}

void MpiCommunicator::wait(std::span<MPI_Request> requests, int64_t partner) {
  double begin = clock_now();
  bool told = false;
  while (true) {
    int done = 0;
    {
      std::lock_guard lock(mutex_);
      check(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE),
            "MPI_Testall");
    }
    if (done != 0) break;
    // At first the other is about to come; later it computes, perhaps on this very core.
    if (clock_now() - begin < 1e-3) {
      sched_yield();
      continue;
    }
    if (!std::exchange(told, true)) note_wait(partner);
    usleep(50);
  }
  if (told) note_wait(-1);
}

void MpiCommunicator::finish() {
  barrier();
  stop_watch();
  barrier();  // so that collect() finds the last letters
  collect();
  MPI_Finalize();
}

void MpiCommunicator::post(int64_t to, std::vector<std::byte> letter) {
  Posted& posted = posted_.emplace_back(Posted{to, std::move(letter), {}});
  check(MPI_Isend(posted.bytes.data(), static_cast<int>(posted.bytes.size()), MPI_BYTE, static_cast<int>(to),
                  0, letters_, &posted.request),
        "MPI_Isend");
}

bool MpiCommunicator::posting(int64_t to) const {
  return std::ranges::any_of(posted_, [to](const Posted& posted) { return posted.to == to; });
}

void MpiCommunicator::deliver() {
  for (auto it = posted_.begin(); it != posted_.end();) {
    int done = 0;
    MPI_Test(&it->request, &done, MPI_STATUS_IGNORE);
    it = done != 0 ? posted_.erase(it) : std::next(it);
  }
  while (true) {
    int there = 0, size = 0;
    MPI_Status status;
    MPI_Iprobe(MPI_ANY_SOURCE, 0, letters_, &there, &status);
    if (there == 0) return;
    MPI_Get_count(&status, MPI_BYTE, &size);
    std::vector<std::byte> bytes(static_cast<size_t>(size));
    MPI_Recv(bytes.data(), size, MPI_BYTE, status.MPI_SOURCE, 0, letters_, MPI_STATUS_IGNORE);
    read(status.MPI_SOURCE, bytes);
  }
}

void MpiCommunicator::end_as_told(int exit_code) {
  // Whoever started the ranks ends this one; if not, it does so itself.
  std::this_thread::sleep_for(std::chrono::duration<double>(kGrace));
  _exit(exit_code);
}

void MpiCommunicator::abort_all(int exit_code) {
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  _exit(exit_code);
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(const RankPlace& place) {
  return std::make_unique<MpiCommunicator>(place);
}

}  // namespace taper
