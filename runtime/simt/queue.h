#pragma once
// Streams as queues of work, and events as marks in them.

#include <driver_types.h>

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace taper::simt {

/// Something to do on the device; returns in words what went wrong with it (empty: nothing). A graph does it
/// often.
using Work = std::function<std::string()>;

/// Work that streams recorded while they were captured. A node comes after those it depends on.
struct Graph {
  struct Node {
    Work work;
    std::vector<size_t> after;
  };
  std::vector<Node> nodes;
};

/// A point in a stream: done when all work before it is.
struct Mark {
  CUstream_st* stream = nullptr;
  bool done = false;
  std::chrono::steady_clock::time_point time = {};
};

/// What a stream does next: work, or waiting for a mark, or reaching one.
struct Item {
  Work work;
  std::shared_ptr<Mark> wait, reach;
};

/// A capture into a graph, by one stream or several.
struct Capture {
  CUstream_st* origin;
  cudaStreamCaptureMode mode;
  Graph graph;
  std::vector<CUstream_st*> streams;
};

}  // namespace taper::simt

/// The CUDA runtime declares these types and leaves what is in them to us.
struct CUstream_st {
  int device = 0;
  bool waits_for_legacy = true;  // for what the null stream does, as streams without cudaStreamNonBlocking do
  std::deque<taper::simt::Item> items;
  bool busy = false;    // a thread is at its first item
  int waiting = 0;      // threads that wait for it to be done
  std::string failure;  // the first since it was last asked for
  std::shared_ptr<taper::simt::Capture> capture;
  std::vector<size_t> last;  // the nodes that captured work comes after
};

struct CUevent_st {
  std::shared_ptr<taper::simt::Mark> mark;
  std::shared_ptr<taper::simt::Capture>
      capture;  // of the stream it was recorded in, and that stream's last nodes
  std::vector<size_t> last;
};

namespace taper::simt {

/// Puts work into a stream's queue, or into the graph that it captures. `waits`: and waits until it is done,
/// if it is not captured.
cudaError_t submit(cudaStream_t stream, Work work, bool waits = false);
cudaError_t record(cudaStream_t stream, CUevent_st& event);
cudaError_t wait_for(cudaStream_t stream, const CUevent_st& event);

/// Does the work of one stream, of all streams, or of a stream up to the mark, and gives what failed in it.
cudaError_t synchronize(cudaStream_t stream);
cudaError_t synchronize_all();
cudaError_t synchronize(const std::shared_ptr<Mark>& mark);
/// Whether all is done; does a little more if not, so that asking again and again comes to an end.
cudaError_t query(cudaStream_t stream);
cudaError_t query(const std::shared_ptr<Mark>& mark);

cudaStream_t create_stream(bool waits_for_legacy);
cudaError_t destroy_stream(cudaStream_t stream);

cudaError_t begin_capture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t end_capture(cudaStream_t stream, Graph& graph);
bool captures(cudaStream_t stream);
/// Whether the calling thread may launch on it: its current device is the stream's.
bool of_current_device(cudaStream_t stream);
/// Whether a capture now forbids the calling thread what would wait for the device, such as cudaMalloc.
bool capture_forbids_waiting();

/// Begins the random choices between streams anew, from the seed of the schedule.
void reseed_streams();

}  // namespace taper::simt
