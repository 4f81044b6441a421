// What the emulated runtime keeps: devices, streams of pending work, events, captures.
//
// Streams are lazy. Work is done by whoever waits for it, on that host thread and no sooner, so that a
// program which forgets to wait reads what was there before. Where nobody waits but somebody must be told (a
// host function, a query that polls), a thread of the runtime brings the work about a little later.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "simt/runtime_api.h"

namespace simt {

using Action = std::function<cudaError_t()>;
using StreamPointer = std::shared_ptr<CUstream_st>;

// A place in a stream: reached once as many pieces of work as NUMBER are done.
struct Point {
  StreamPointer stream;
  uint64_t number = 0;
};

struct Work {
  Action action;
  std::vector<Point> after;
};

// How much of each stream's captured work comes before a place: what tells joined streams from forked ones.
using CaptureClock = std::map<const CUstream_st*, uint64_t>;

struct Capture {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  std::thread::id thread;
  const CUstream_st* origin = nullptr;
  bool invalid = false;
  std::vector<Action> nodes;                  // in an order in which they may run
  std::vector<std::shared_ptr<void>> memory;  // allocated by nodes
  std::vector<StreamPointer> members;
};

using Stamp = std::shared_ptr<std::chrono::steady_clock::time_point>;

struct Device {
  int index = 0;
  cudaError_t sticky = cudaSuccess;  // of a failed kernel: every later call returns it
  StreamPointer legacy;
  uint64_t release_threshold = 0;  // of the memory pool
  uint64_t reserved = 0, reserved_high = 0, used_high = 0;
};

struct Runtime {
  std::mutex lock;
  std::condition_variable changed;  // a stream went on
  std::vector<std::unique_ptr<Device>> devices;
  std::vector<StreamPointer> streams;  // in the order of their creation, legacy ones first
  std::set<cudaEvent_t> events;
  std::set<std::shared_ptr<Capture>> captures;
  std::map<std::pair<int, const void*>, int> shared_limits;  // opted in to, by device and kernel
  std::vector<Point> wanted;                                 // by those who poll or left a host function
  std::condition_variable wanted_changed;
};

// With its devices as the settings say; never destroyed, for what runs while the process exits.
Runtime& runtime();

using Lock = std::unique_lock<std::mutex>;

// The device of this host thread.
int& current_device();
Device& device_now();

// Remembers ERROR as this thread's last, unless it is cudaSuccess, and returns it.
cudaError_t result(cudaError_t error);
// The same, with a sentence for the report.
cudaError_t refuse(cudaError_t error, const std::string& text);

// The stream of a handle of the program's; null where there is none such.
StreamPointer find_stream(cudaStream_t handle);

// Adds work to a stream, or to the graph that it captures.
cudaError_t enqueue(Lock& lock, const StreamPointer& stream, Action action);
// Does the work up to POINT, or waits for the thread that does it.
void bring_about(Lock& lock, const Point& point);
void bring_about_device(Lock& lock, int device);
// Has it brought about a little later.
void want(const Point& point);

// Whether the call is one that a capture forbids on this thread; if so it has invalidated the capture.
bool forbidden_by_capture();
// The end of a wait: the pool gives back what is over its threshold.
void trim_pool_after_wait(int device);

}  // namespace simt

struct CUstream_st {
  int device = 0;
  unsigned flags = 0;
  int priority = 0;
  bool legacy = false;
  bool destroyed = false;
  std::deque<simt::Work> queue;
  uint64_t enqueued = 0, completed = 0;
  bool busy = false;  // some host thread does its first piece of work
  std::shared_ptr<simt::Capture> capture;
  simt::CaptureClock clock;
};

struct CUevent_st {
  unsigned flags = 0;
  int device = 0;
  simt::Point point;  // of its last record; no stream where it was never recorded
  simt::Stamp stamp;
  std::shared_ptr<simt::Capture> capture;  // that its last record belongs to
  simt::CaptureClock clock;
};

struct CUgraph_st {
  std::vector<simt::Action> nodes;
  std::vector<std::shared_ptr<void>> memory;
};

struct CUgraphExec_st : CUgraph_st {};
