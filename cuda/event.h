// A place in a stream, reached in its order.
#pragma once

#include <memory>

#include "cuda/runtime.h"

namespace moe::cuda {

class Event {
 public:
  enum class Kind {
    order,  // for other streams and for the host, which sleeps meanwhile
    time,   // also tells when
  };

  explicit Event(cudaStream_t stream, Kind kind = Kind::order) {
    cudaEvent_t event = nullptr;
    const unsigned untimed = kind == Kind::order ? cudaEventDisableTiming : cudaEventDefault;
    check(cudaEventCreateWithFlags(&event, cudaEventBlockingSync | untimed), "cudaEventCreateWithFlags");
    event_.reset(event);
    check(cudaEventRecord(event, stream), "cudaEventRecord");
  }

  cudaEvent_t get() const { return event_.get(); }
  cudaError_t wait() const { return cudaEventSynchronize(event_.get()); }

 private:
  struct Destroy {
    void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
  };
  std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, Destroy> event_;
};

}  // namespace moe::cuda
