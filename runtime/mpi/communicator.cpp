// Ranks on MPI. Of MPI only what cannot decide a bit is used: point to point messages, and a gather of
// addresses.

#include "runtime/communicator.h"

#include <mpi.h>
#include <poll.h>
#include <sched.h>
#include <unistd.h>

extern "C" {
#include <sys/pidfd.h>  // glibc 2.36 forgets to say so itself
}

#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <list>
#include <mutex>
#include <thread>
#include <utility>

#include "runtime/error.h"
#include "runtime/rank_watch.h"

namespace taper {

namespace {

// Sent at a time: small enough that MPI's count, an int, holds it.
constexpr size_t kPiece = size_t{64} << 20;
// What rank 0 grants the other ranks to come to the same error by themselves.
constexpr double kGrace = 1;

double clock_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw Failure("{} failed: {}", call, text.data());
}

// One letter of the watch, between each rank and rank 0.
struct Letter {
  enum class Kind : int32_t {
    status,   // the sender lives
    failure,  // to rank 0: the sender cannot go on; the text says why
    end       // from rank 0: all end, and why has been printed
  } kind = Kind::status;
  int32_t exit_code = 0;   // of a failure or an end
  int64_t waits_for = -1;  // of a status
  double waited = 0;       // seconds
};

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(const RankPlace& place);
  ~MpiCommunicator() override {
    stop_watch();
    for (int death : deaths_)
      if (death >= 0) close(death);
  }

  void exchange(int64_t partner, std::span<const std::byte> send, std::span<std::byte> receive) override;
  void note(const std::string& place) override {
    std::lock_guard lock(own_);
    place_ = place;
  }
  void note_wait(int64_t partner) override {
    std::lock_guard lock(own_);
    waits_for_ = partner;
    waits_since_ = clock_now();
  }
  void set_timeout(double seconds) override { timeout_ = seconds; }
  [[noreturn]] void fail(const std::string& message, int exit_code) override;
  void finish() override;

 private:
  void wait(std::array<MPI_Request, 2>& requests, int64_t partner);
  [[noreturn]] void end_all(const std::string& message, int exit_code);
  void introduce();
  void watch();
  void stop_watch();
  void post(int64_t to, const Letter& letter, const std::string& text = "");
  void collect();
  void read(int64_t from, std::span<const std::byte> bytes);
  bool died(int64_t rank) const;
  std::string place() {
    std::lock_guard lock(own_);
    return place_;
  }
  void judge(double now);
  void speak(double now);

  // MPI is entered by one thread at a time (MPI_THREAD_SERIALIZED), and never waits inside: so that the watch
  // can speak while the others are waited for.
  std::timed_mutex mpi_;
  MPI_Comm data_ = MPI_COMM_NULL, letters_ = MPI_COMM_NULL;
  std::mutex own_;  // guards what this rank says of itself
  std::string place_;
  int64_t waits_for_ = -1;
  double waits_since_ = 0;
  std::atomic<double> timeout_ = 60;
  // The watch's own.
  std::vector<RankStatus> ranks_;
  std::vector<int> deaths_;  // of each rank on this machine, what becomes readable when it dies; else -1
  struct Posted {
    int64_t to;
    std::vector<std::byte> bytes;
    MPI_Request request;
  };
  std::list<Posted> posted_;
  double awoke_ = -1e9;   // when this process went on after it had been stopped for long
  double failed_at_ = 0;  // when another rank reported `failure_`
  std::string failure_;
  int failure_code_ = 0;
  std::atomic<bool> stopping_ = false, ending_ = false;
  std::thread watch_;
};

MpiCommunicator::MpiCommunicator(const RankPlace& place) : Communicator(place) {
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
  introduce();
  watch_ = std::thread([this] { watch(); });
}

// Who the others are, and how to notice that one on this machine dies.
void MpiCommunicator::introduce() {
  struct Card {
    int64_t process;
    std::array<char, 64> host;
  };
  auto ranks = static_cast<size_t>(this->ranks()), self = static_cast<size_t>(rank());
  std::vector<Card> cards(ranks);
  Card own{getpid(), {}};
  gethostname(own.host.data(), own.host.size() - 1);
  check(MPI_Allgather(&own, sizeof own, MPI_BYTE, cards.data(), sizeof own, MPI_BYTE, data_),
        "MPI_Allgather");
  double now = clock_now();
  for (size_t i = 0; i < ranks; ++i) {
    ranks_.push_back(
        {.name = fmt::format("rank {} (process {} on {})", i, cards[i].process, cards[i].host.data()),
         .heard = now});
    bool near = i != self && cards[i].host == own.host;
    deaths_.push_back(near ? pidfd_open(static_cast<pid_t>(cards[i].process), 0) : -1);
  }
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
      std::lock_guard lock(mpi_);
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

void MpiCommunicator::wait(std::array<MPI_Request, 2>& requests, int64_t partner) {
  double begin = clock_now();
  bool told = false;
  while (true) {
    int done = 0;
    {
      std::lock_guard lock(mpi_);
      check(MPI_Testall(2, requests.data(), &done, MPI_STATUSES_IGNORE), "MPI_Testall");
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

void MpiCommunicator::fail(const std::string& message, int exit_code) {
  if (first()) end_all(message, exit_code);
  {
    std::lock_guard lock(mpi_);
    post(0, {.kind = Letter::Kind::failure, .exit_code = exit_code}, message);
  }
  // Rank 0 prints it, or its own, and ends this process.
  std::this_thread::sleep_for(std::chrono::duration<double>(timeout_.load()));
  end_all(message, exit_code);
}

void MpiCommunicator::end_all(const std::string& message, int exit_code) {
  if (ending_.exchange(true))
    while (true) pause();  // another thread is at it
  if (!message.empty()) fmt::print(stderr, "taper: {}\n", message);
  std::fflush(nullptr);
  // Long enough for any call of another thread.
  if (std::unique_lock lock(mpi_, std::chrono::seconds(1)); lock && first())
    for (int64_t to = 1; to < ranks(); ++to) post(to, {.kind = Letter::Kind::end, .exit_code = exit_code});
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  _exit(exit_code);
}

void MpiCommunicator::finish() {
  barrier();
  stop_watch();
  barrier();  // so that collect() finds the last letters
  collect();
  MPI_Finalize();
}

void MpiCommunicator::stop_watch() {
  stopping_ = true;
  if (watch_.joinable()) watch_.join();
}

// To be called with mpi_ held.
void MpiCommunicator::post(int64_t to, const Letter& letter, const std::string& text) {
  // One that does not collect its letters gets no more.
  for (const Posted& posted : posted_)
    if (posted.to == to && letter.kind == Letter::Kind::status) return;
  Posted& posted = posted_.emplace_back(Posted{to, std::vector<std::byte>(sizeof letter + text.size()), {}});
  std::memcpy(posted.bytes.data(), &letter, sizeof letter);
  std::memcpy(posted.bytes.data() + sizeof letter, text.data(), text.size());
  check(MPI_Isend(posted.bytes.data(), static_cast<int>(posted.bytes.size()), MPI_BYTE, static_cast<int>(to),
                  0, letters_, &posted.request),
        "MPI_Isend");
}

void MpiCommunicator::collect() {
  std::lock_guard lock(mpi_);
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

void MpiCommunicator::read(int64_t from, std::span<const std::byte> bytes) {
  Letter letter;
  std::memcpy(&letter, bytes.data(), sizeof letter);
  auto text = bytes.subspan(sizeof letter);
  std::string content(reinterpret_cast<const char*>(text.data()), text.size());
  double now = clock_now();
  if (letter.kind == Letter::Kind::end) {
    // Whoever started the ranks ends this one; if not, it does so itself.
    std::this_thread::sleep_for(std::chrono::duration<double>(kGrace));
    _exit(letter.exit_code);
  }
  if (letter.kind == Letter::Kind::failure) {
    if (failed_at_ > 0) return;
    failed_at_ = now;
    failure_ = fmt::format("rank {}: {}", from, content);
    failure_code_ = letter.exit_code;
    return;
  }
  RankStatus& status = ranks_[static_cast<size_t>(from)];
  status.heard = now;
  status.waits_for = letter.waits_for;
  status.waits_since = now - letter.waited;
}

bool MpiCommunicator::died(int64_t rank) const {
  pollfd end{deaths_[static_cast<size_t>(rank)], POLLIN, 0};
  return end.fd >= 0 && poll(&end, 1, 0) == 1;
}

// Rank 0 hears all ranks, and the others hear rank 0; should that be lost, rank 1 speaks.
void MpiCommunicator::judge(double now) {
  std::string lost;
  if (first()) {
    if (failed_at_ > 0 && now - failed_at_ > kGrace) end_all(failure_, failure_code_);
    for (int64_t i = 1; i < ranks() && lost.empty(); ++i)
      if (died(i)) {
        // Another rank has found this one missing, said so and ended all.
        if (now - awoke_ < 5 * kGrace) end_all("", 1);
        lost = dead_rank(ranks_[static_cast<size_t>(i)], place());
      }
    if (lost.empty()) lost = lost_rank(ranks_, place(), now, timeout_);
    if (!lost.empty()) end_all(lost, 1);
    return;
  }
  RankStatus head = ranks_[0];
  head.waits_for = -1;  // whom it waits for, it judges itself
  if (died(0)) {
    collect();  // it may have left word
    lost = dead_rank(head, place());
  } else {
    lost = lost_rank({&head, 1}, place(), now, timeout_);
  }
  if (lost.empty()) return;
  if (rank() > 1) std::this_thread::sleep_for(std::chrono::duration<double>(kGrace));
  end_all(rank() == 1 ? lost : "", 1);
}

// Says what this rank does, to rank 0, or as rank 0 to all.
void MpiCommunicator::speak(double now) {
  RankStatus& own = ranks_[static_cast<size_t>(rank())];
  own.heard = now;
  {
    std::lock_guard lock(own_);
    own.waits_for = waits_for_;
    own.waits_since = waits_since_;
  }
  Letter letter{.waits_for = own.waits_for, .waited = now - own.waits_since};
  std::lock_guard lock(mpi_);
  if (!first()) return post(0, letter);
  for (int64_t to = 1; to < ranks(); ++to) post(to, letter);
}

void MpiCommunicator::watch() {
  double spoke = 0, last = clock_now();
  while (!stopping_) try {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      collect();
      double now = clock_now(), gap = now - std::exchange(last, now);
      // This process itself was stopped for a while: that is not the others' fault.
      if (gap > timeout_ / 4) {
        for (RankStatus& rank : ranks_) {
          rank.heard += gap;
          rank.waits_since += gap;
        }
        if (gap > timeout_ / 2) awoke_ = now;
      }
      if (now - spoke > std::min(1.0, timeout_ / 10)) speak(spoke = now);
      judge(now);
    } catch (const std::exception& error) {
      end_all(error.what(), 1);
    }
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(const RankPlace& place) {
  return std::make_unique<MpiCommunicator>(place);
}

}  // namespace taper
