// Blocking waits in terms of the asynchronous interface, and what queues have in common.
#include "ops/queue.h"

#include <cstring>
#include <future>
#include <string>

namespace moe {
namespace {

template <class Start>
void block_on(Start start) {
  std::promise<std::optional<Error>> outcome;
  start([&](std::optional<Error> failure) { outcome.set_value(std::move(failure)); });
  if (auto failure = outcome.get_future().get()) throw Error(*failure);
}

[[noreturn]] void refuse_streams() {
  throw Error(kErrUnsupported, "device: expected one with streams, got one without");
}

}  // namespace

void Queue::submit_all(ProgramRun run) {
  for (size_t i = 0; i < run.program->size(); ++i) submit(run.program->op(i, run.places), run.pins);
}

void* Queue::stream() const {
  refuse_streams();
}

void Queue::wait_for_stream(void* /*stream*/) {
  refuse_streams();
}

void Queue::signal_stream(void* /*stream*/) {
  refuse_streams();
}

Error capture_error(const char* call) {
  return {kErrCapture, std::string(call) + ": expected a call outside of capture(), got one within it"};
}

void wait_for(Queue& queue) {
  if (queue.settled()) return;
  block_on([&](Queue::Done done) { queue.then(std::move(done)); });
}

bool read_settled(Queue& queue, const Tensor& source, void* host) {
  if (!queue.settled()) return false;
  if (source.bytes() > 0) std::memcpy(host, source.data, source.bytes());
  return true;
}

void read_blocking(Queue& queue, const Tensor& source, Pins pins, void* host) {
  if (read_settled(queue, source, host)) return;
  block_on([&](Queue::Done done) { queue.read(source, std::move(pins), host, std::move(done)); });
}

}  // namespace moe
