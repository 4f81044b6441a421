// What a device is to the binding: an ordered queue of ops over memory of its own.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "ops/error.h"
#include "ops/program.h"
#include "ops/span.h"

namespace moe {

// Ops to be run again, as often as asked for, and the memory that they use.
class Graph {
 public:
  virtual ~Graph() = default;
};

// A time at which a queue came to a place in its order.
class Stamp {
 public:
  virtual ~Stamp() = default;
};

class Queue {
 public:
  // Runs on the queue's thread. Gets the first failure of the ops between the last wait and this one, which
  // is thereby reported and forgotten.
  using Done = std::function<void(std::optional<Error>)>;

  virtual ~Queue() = default;

  // Uninitialised memory, aligned for any kernel. Throws ERR_OUT_OF_MEMORY.
  virtual std::shared_ptr<Storage> allocate(size_t bytes) = 0;
  // Validates, enqueues and returns. `pins` keep the op's memory alive until it has run.
  virtual void submit(const Op& op, Pins pins) = 0;
  // Enqueues the ops of a program and returns.
  virtual void submit_all(ProgramRun run);
  // Overwrites a tensor, or a part of one, in queue order with a copy of `host`, taken before this returns.
  virtual void write(const Tensor& out, Pins pins, const void* host) = 0;
  // Copies a tensor to host memory in queue order, then calls `done`.
  virtual void read(const Tensor& source, Pins pins, void* host, Done done) = 0;
  // Calls `done` once everything submitted before has run.
  virtual void then(Done done) = 0;
  // Whether everything submitted before has run, or does within some microseconds in which the calling thread
  // may lend a hand; then tensors may be read where they lie. Throws the failure that a wait would report.
  // Never where memory is not the host's.
  virtual bool settled() { return false; }

  virtual std::shared_ptr<Stamp> stamp() = 0;
  // Once both have been reached, which `then` tells.
  virtual double milliseconds(const Stamp& from, const Stamp& to) = 0;

  // From here to end_recording(), each op that runs and each of its stages leaves a span; those of the CPU's
  // queues together. Begins anew where a recording runs already.
  virtual void start_recording() = 0;
  // What was recorded, in the order in which it ended; empty where nothing was.
  virtual std::vector<Span> end_recording() = 0;

  // From here to end_capture(), submitted ops do not run: they are collected. Reads, writes, waits and stamps
  // throw ERR_CAPTURE.
  virtual void begin_capture() = 0;
  // Throws what an op was refused for; the capture has ended all the same.
  virtual std::shared_ptr<Graph> end_capture() = 0;
  // Enqueues the ops of a graph that this queue captured.
  virtual void replay(const Graph& graph) = 0;

  // Throws unless the memory is the device's.
  virtual void check_memory(const void* data) const = 0;

  // The native stream behind the queue, and its order against another one of the same device. A device
  // without streams throws ERR_UNSUPPORTED.
  virtual void* stream() const;
  // What is submitted from now on runs after all that `stream` has been given so far.
  virtual void wait_for_stream(void* stream);
  // What `stream` is given from now on runs after all that was submitted so far.
  virtual void signal_stream(void* stream);
};

// For what a capture forbids.
Error capture_error(const char* call);

// Blocks until the queue has run everything; throws the failure it reports.
void wait_for(Queue& queue);
// Copies a tensor to host memory at once, where the queue has settled.
bool read_settled(Queue& queue, const Tensor& source, void* host);
// As Queue::read, blocking.
void read_blocking(Queue& queue, const Tensor& source, Pins pins, void* host);

// The backends. An absent one throws ERR_UNSUPPORTED with the sentence that its `describe` gives.
namespace cpu {
std::unique_ptr<Queue> make_queue();
}
namespace cuda {
std::unique_ptr<Queue> make_queue(int gpu);
}  // namespace cuda

}  // namespace moe
