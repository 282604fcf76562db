#include "autograd/communication_thread.h"

#include <chrono>
#include <utility>

namespace taper {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

CommunicationThread::CommunicationThread(Backend& backend) : thread_([this, &backend] { work(backend); }) {}

CommunicationThread::~CommunicationThread() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

int64_t CommunicationThread::post(Task task) {
  std::lock_guard lock(mutex_);
  tasks_.push_back(std::move(task));
  wake_.notify_all();
  return ++posted_;
}

void CommunicationThread::wait(int64_t number) {
  const auto begin = Clock::now();
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return finished_ >= number || error_; });
  times_.waited += seconds_since(begin);
  if (finished_ < number) std::rethrow_exception(error_);
}

CommunicationThread::Times CommunicationThread::take_times() {
  std::lock_guard lock(mutex_);
  return std::exchange(times_, {});
}

void CommunicationThread::work(Backend& backend) {
  std::unique_ptr<Stream> stream;
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return stop_ || !tasks_.empty(); });
    if (stop_) return;
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    if (error_) continue;
    lock.unlock();
    const auto begin = Clock::now();
    std::exception_ptr error;
    try {
      if (!stream) stream = backend.make_stream(1);  // on the thread that uses it
      task(*stream);
      stream->synchronize();
    } catch (...) {
      error = std::current_exception();
    }
    task = nullptr;  // what it holds is released before anybody hears that it is done
    lock.lock();
    times_.busy += seconds_since(begin);
    error_ = error;
    if (!error) ++finished_;
    done_.notify_all();
  }
}

}  // namespace taper
