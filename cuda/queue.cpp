// A GPU as a device: one stream that ops are enqueued on by the calling thread, and one native thread that
// waits for whoever wants to know that they have run.
#include "ops/queue.h"

#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>

#include "cuda/backend.h"
#include "cuda/devices.h"

namespace moe::cuda {
namespace {

// Reached in stream order.
class Event {
 public:
  explicit Event(cudaStream_t stream) {
    check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming | cudaEventBlockingSync),
          "cudaEventCreateWithFlags");
    check(cudaEventRecord(event_, stream), "cudaEventRecord");
  }
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~Event() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }

  cudaError_t wait() const { return cudaEventSynchronize(event_); }

 private:
  cudaEvent_t event_ = nullptr;
};

class CudaQueue final : public Queue {
 public:
  explicit CudaQueue(int device)
      : limits_(limits_of(device)),
        stream_(std::make_shared<Stream>(device)),
        failure_memory_(allocate_pinned(sizeof(Failure))),
        failure_(new (failure_memory_->data()) Failure()),
        context_(stream_, limits_, failure_),
        waiter_([this] { wait_and_report(); }) {}

  // Lets what is enqueued run to its end; nobody is told.
  ~CudaQueue() override {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
    }
    wake_.notify_one();
    waiter_.join();
    cudaStreamSynchronize(stream_->get());
  }

  std::shared_ptr<Storage> allocate(size_t bytes) override { return allocate_device(stream_, bytes); }

  // Device memory is freed in stream order, so that the op's may go at once.
  void submit(const Op& op, Pins /*pins*/) override {
    validate(op);
    const CurrentDevice current(limits_.index);
    context_.begin(static_cast<int>(op.index()));
    try {
      run(op, context_);
    } catch (const Error& error) {
      note(error, op);
    }
  }

  void write(const Tensor& out, Pins pins, const void* host) override {
    if (out.bytes() == 0) return;
    const CurrentDevice current(limits_.index);
    auto staging = allocate_pinned(out.bytes());
    std::memcpy(staging->data(), host, out.bytes());
    check(cudaMemcpyAsync(out.data, staging->data(), out.bytes(), cudaMemcpyHostToDevice, stream_->get()),
          "cudaMemcpyAsync");
    pins.push_back(std::move(staging));
    push({.event = Event(stream_->get()), .pins = std::move(pins)});
  }

  void read(const Tensor& source, Pins pins, void* host, Done done) override {
    const CurrentDevice current(limits_.index);
    const size_t bytes = source.bytes();
    auto staging = allocate_pinned(bytes);
    if (bytes > 0) {
      check(cudaMemcpyAsync(staging->data(), source.data, bytes, cudaMemcpyDeviceToHost, stream_->get()),
            "cudaMemcpyAsync");
    }
    const void* staged = staging->data();
    pins.push_back(std::move(staging));
    push({.event = Event(stream_->get()),
          .pins = std::move(pins),
          .done = [staged, host, bytes, done = std::move(done)](std::optional<Error> failure) {
            if (!failure && bytes > 0) std::memcpy(host, staged, bytes);
            done(std::move(failure));
          }});
  }

  void then(Done done) override {
    const CurrentDevice current(limits_.index);
    push({.event = Event(stream_->get()), .done = std::move(done)});
  }

 private:
  // Something to let go of, and somebody to tell, once the stream has come so far.
  struct Mark {
    Event event;
    Pins pins;
    Done done;
  };

  void push(Mark mark) {
    {
      const std::lock_guard lock(mutex_);
      marks_.push_back(std::move(mark));
    }
    wake_.notify_one();
  }

  void wait_and_report() {
    cudaSetDevice(limits_.index);
    while (true) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return closing_ || !marks_.empty(); });
      if (closing_) return;
      Mark mark = std::move(marks_.front());
      marks_.pop_front();
      lock.unlock();
      const cudaError_t status = mark.event.wait();
      if (mark.done) mark.done(take_failure(status));
    }
  }

  void note(const Error& error, const Op& op) {
    const std::lock_guard lock(mutex_);
    if (!refused_) refused_.emplace(error.code(), std::string(name_of(op)) + ": " + error.what());
  }

  // The first failure since the last report.
  std::optional<Error> take_failure(cudaError_t status) {
    const std::lock_guard lock(mutex_);
    std::optional<Error> first = std::exchange(refused_, std::nullopt);
    if (status != cudaSuccess) {
      cudaGetLastError();
      first.emplace(kErrDevice, std::string("the device failed: ") + cudaGetErrorName(status) + ", " +
                                    cudaGetErrorString(status));
    } else if (failure_->taken != 0) {
      if (!first) first = error_of(*failure_);
      *failure_ = Failure();
    }
    return first;
  }

  const DeviceLimits limits_;
  std::shared_ptr<Stream> stream_;
  std::shared_ptr<Storage> failure_memory_;
  Failure* failure_;
  Context context_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Mark> marks_;
  bool closing_ = false;
  // What a launch or an allocation was refused for.
  std::optional<Error> refused_;
  std::thread waiter_;
};

}  // namespace

std::unique_ptr<Queue> make_queue(int device) {
  if (device >= device_count()) throw Error(kErrUnsupported, describe());
  return std::make_unique<CudaQueue>(device);
}

}  // namespace moe::cuda
