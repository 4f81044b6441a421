// What a device is to the binding: an ordered queue of ops over memory of its own.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ops/error.h"
#include "ops/op.h"

namespace moe {

using Pins = std::vector<std::shared_ptr<Storage>>;

class Queue {
 public:
  // Runs on the queue's thread. Gets the first failure since the last wait, which is thereby reported and
  // forgotten.
  using Done = std::function<void(std::optional<Error>)>;

  virtual ~Queue() = default;

  // Uninitialised memory, aligned for any kernel. Throws ERR_OUT_OF_MEMORY.
  virtual std::shared_ptr<Storage> allocate(size_t bytes) = 0;
  // Validates, enqueues and returns. `pins` keep the op's memory alive until it has run.
  virtual void submit(const Op& op, Pins pins) = 0;
  // Overwrites a tensor, or a part of one, in queue order with a copy of `host`, taken before this returns.
  virtual void write(const Tensor& out, Pins pins, const void* host) = 0;
  // Copies a tensor to host memory in queue order, then calls `done`.
  virtual void read(const Tensor& source, Pins pins, void* host, Done done) = 0;
  // Calls `done` once everything submitted before has run.
  virtual void then(Done done) = 0;
};

// Blocks until the queue has run everything; throws the failure it reports.
void wait_for(Queue& queue);
// As Queue::read, blocking.
void read_blocking(Queue& queue, const Tensor& source, Pins pins, void* host);

// The backends. An absent one throws ERR_UNSUPPORTED with the sentence that its `describe` gives.
namespace cpu {
std::unique_ptr<Queue> make_queue();
}
namespace cuda {
std::unique_ptr<Queue> make_queue(int device);
// GPUs that ops can run on; 0 without a driver.
int device_count();
std::string device_name(int device);
// One sentence: the devices found, or what is missing.
const char* describe();
}  // namespace cuda

}  // namespace moe
