#pragma once
// A thread that communicates while workers compute.

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#include "kernels/backend.h"

namespace taper {

/// Does what it is given in that order, on a stream of its own, which is synchronised behind each task: the
/// task's results are then anybody's. While it has tasks, nobody else may call the communicator that they
/// use. After a task that failed no other is begun.
class CommunicationThread {
 public:
  explicit CommunicationThread(Backend& backend);
  /// Waits for the task that is under way; drops the others.
  ~CommunicationThread();
  CommunicationThread(const CommunicationThread&) = delete;
  CommunicationThread& operator=(const CommunicationThread&) = delete;

  using Task = std::function<void(Stream&)>;
  /// Any thread. Returns the task's number, which counts from 1.
  int64_t post(Task task);
  /// Returns when all tasks up to this number are done; throws what one of them failed with.
  void wait(int64_t number);
  /// What there was to do, and what it cost those who waited for it.
  struct Times {
    double busy = 0;    ///< seconds in tasks, waiting for other ranks included
    double waited = 0;  ///< seconds in wait()
  };
  /// Since it was last asked.
  Times take_times();

 private:
  void work(Backend& backend);

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::deque<Task> tasks_;
  int64_t posted_ = 0, finished_ = 0;
  bool stop_ = false;
  std::exception_ptr error_;
  Times times_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace taper
