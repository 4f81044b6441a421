// Blocking waits in terms of the asynchronous interface, the same for every backend.
#include "ops/queue.h"

#include <future>

namespace moe {
namespace {

template <class Start>
void block_on(Start start) {
  std::promise<std::optional<Error>> outcome;
  start([&](std::optional<Error> failure) { outcome.set_value(std::move(failure)); });
  if (auto failure = outcome.get_future().get()) throw Error(*failure);
}

}  // namespace

void wait_for(Queue& queue) {
  block_on([&](Queue::Done done) { queue.then(std::move(done)); });
}

void read_blocking(Queue& queue, const Tensor& source, Pins pins, void* host) {
  block_on([&](Queue::Done done) { queue.read(source, std::move(pins), host, std::move(done)); });
}

}  // namespace moe
