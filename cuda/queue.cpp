// A GPU as a device: one stream that ops are enqueued on by the calling thread.
#include "ops/queue.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "cuda/backend.h"
#include "cuda/devices.h"
#include "cuda/failure_slot.h"
#include "cuda/graph.h"
#include "cuda/pinned.h"
#include "cuda/stages.h"
#include "cuda/waiter.h"

namespace moe::cuda {
namespace {

struct CudaStamp final : Stamp {
  explicit CudaStamp(cudaStream_t stream) : event(stream, Event::Kind::time) {}
  const Event event;
};

class CudaQueue final : public Queue {
 public:
  explicit CudaQueue(int device)
      : limits_(limits_of(device)),
        stream_(std::make_shared<Stream>(device)),
        slot_(std::make_unique<FailureSlot>(stream_)),
        context_(stream_, limits_, slot_->get()),
        waiter_(device) {}

  // Lets what is enqueued run to its end; nobody is told.
  ~CudaQueue() override {
    capture_.reset();
    slot_.reset();
    cudaStreamSynchronize(stream_->get());
  }

  std::shared_ptr<Storage> allocate(size_t bytes) override { return allocate_device(stream_, bytes); }

  void submit(const Op& op, Pins pins) override {
    validate(op);
    const CurrentDevice current(limits_.index);
    context_.begin(static_cast<int>(op.index()));
    if (capture_) {
      capture_->add(op.index(), pins);
    } else {
      unreported_.add(op.index());
    }
    context_.record(capture_ ? nullptr : recording_.get(), name_of(op));
    try {
      const PartTimer whole(context_.recording(), nullptr);
      run(op, context_);
    } catch (const Error& error) {
      refuse({error.code(), std::string(name_of(op)) + ": " + error.what()});
    }
    if (!capture_) hold(std::move(pins));
  }

  void write(const Tensor& out, Pins pins, const void* host) override {
    refuse_in_capture("write");
    if (out.bytes() == 0) return;
    const CurrentDevice current(limits_.index);
    auto staging = allocate_pinned(out.bytes());
    std::memcpy(staging->data(), host, out.bytes());
    check(cudaMemcpyAsync(out.data, staging->data(), out.bytes(), cudaMemcpyHostToDevice, stream_->get()),
          "cudaMemcpyAsync");
    pins.push_back(std::move(staging));
    hold(std::move(pins));
  }

  void read(const Tensor& source, Pins pins, void* host, Done done) override {
    refuse_in_capture("data");
    const CurrentDevice current(limits_.index);
    const size_t bytes = source.bytes();
    auto staging = allocate_pinned(bytes);
    if (bytes > 0) {
      check(cudaMemcpyAsync(staging->data(), source.data, bytes, cudaMemcpyDeviceToHost, stream_->get()),
            "cudaMemcpyAsync");
    }
    const void* staged = staging->data();
    pins.push_back(std::move(staging));
    report(std::move(pins), [staged, host, bytes, done = std::move(done)](std::optional<Error> failure) {
      if (!failure && bytes > 0) std::memcpy(host, staged, bytes);
      done(std::move(failure));
    });
  }

  void then(Done done) override {
    refuse_in_capture("wait");
    const CurrentDevice current(limits_.index);
    report({}, std::move(done));
  }

  std::shared_ptr<Stamp> stamp() override {
    refuse_in_capture("timer");
    const CurrentDevice current(limits_.index);
    return std::make_shared<CudaStamp>(stream_->get());
  }

  double milliseconds(const Stamp& from, const Stamp& to) override {
    float elapsed = 0;
    check(cudaEventElapsedTime(&elapsed, static_cast<const CudaStamp&>(from).event.get(),
                               static_cast<const CudaStamp&>(to).event.get()),
          "cudaEventElapsedTime");
    return elapsed;
  }

  void start_recording() override {
    refuse_in_capture("recording");
    const CurrentDevice current(limits_.index);
    recording_ = std::make_unique<StageRecording>(stream_);
  }

  std::vector<Span> end_recording() override {
    refuse_in_capture("recording");
    const CurrentDevice current(limits_.index);
    const auto ended = std::exchange(recording_, nullptr);
    return ended ? ended->end() : std::vector<Span>();
  }

  void begin_capture() override {
    refuse_in_capture("capture");
    const CurrentDevice current(limits_.index);
    capture_ = std::make_unique<Capture>(stream_);
  }

  std::shared_ptr<Graph> end_capture() override {
    const CurrentDevice current(limits_.index);
    return std::exchange(capture_, nullptr)->end();
  }

  void replay(const Graph& graph) override {
    refuse_in_capture("replay");
    const CurrentDevice current(limits_.index);
    const auto& captured = static_cast<const CudaGraph&>(graph);
    unreported_.add(captured.ops());
    captured.launch(stream_->get());
    hold(captured.inputs());
  }

  void check_memory(const void* data) const override { check_memory_of(limits_.index, data); }

  void* stream() const override { return stream_->get(); }

  void wait_for_stream(void* stream) override { order_after(stream, stream_->get(), stream); }

  void signal_stream(void* stream) override { order_after(stream_->get(), stream, stream); }

 private:
  void refuse_in_capture(const char* call) const {
    if (capture_) throw capture_error(call);
  }

  // What a launch or an allocation was refused for: told at the next wait, or at once where there is none.
  void refuse(const Error& error) {
    if (capture_) {
      capture_->refuse(error);
      throw Error(error);
    }
    if (!refused_) refused_ = error;
  }

  // Keeps alive what pending work uses. Device memory is freed in stream order, so that it may go at once.
  void hold(Pins pins) {
    pins.erase(
        std::remove_if(pins.begin(), pins.end(), [](const auto& pin) { return pin->freed_in_order(); }),
        pins.end());
    if (!pins.empty()) waiter_.push({.event = Event(stream_->get()), .pins = std::move(pins), .reached = {}});
  }

  // Tells `done` what failed since the last report, once the stream has come so far.
  void report(Pins pins, Done done) {
    try {
      auto found = unreported_.empty() ? nullptr : slot_->take();
      Event event(stream_->get());
      waiter_.push({.event = std::move(event),
                    .pins = std::move(pins),
                    .reached = [this, found = std::move(found), ops = std::exchange(unreported_, {}),
                                refused = std::exchange(refused_, std::nullopt),
                                done = std::move(done)](cudaError_t status) {
                      done(status != cudaSuccess ? lost(status, ops) : failure_of(refused, found.get()));
                    }});
    } catch (const Error& error) {
      // The device was lost before it could be asked.
      throw Error(error.code(), unreported_.prefix() + error.what());
    }
  }

  // A failure that the device does not recover from is the answer to every wait from then on. On the waiter.
  Error lost(cudaError_t status, const OpSet& ops) {
    cudaGetLastError();
    if (!lost_) {
      lost_.emplace(kErrDevice, ops.prefix() + "the device failed: " + cudaGetErrorName(status) + ", " +
                                    cudaGetErrorString(status));
    }
    return *lost_;
  }

  static std::optional<Error> failure_of(const std::optional<Error>& refused, const Storage* found) {
    if (refused || found == nullptr) return refused;
    const auto& failure = *static_cast<const Failure*>(found->data());
    return failure.taken != 0 ? std::optional(error_of(failure)) : std::nullopt;
  }

  // What `second` is given from now on runs after what `first` has been given so far. One of them is the
  // caller's.
  void order_after(void* first, void* second, void* callers) const {
    refuse_in_capture("stream");
    const CurrentDevice current(limits_.index);
    const auto stream = static_cast<cudaStream_t>(callers);
    const std::string expected = "stream: expected one of cuda:" + std::to_string(limits_.index);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check_stream(cudaStreamIsCapturing(stream, &status), expected);
    if (status != cudaStreamCaptureStatusNone)
      throw Error(kErrCapture, expected + " that is not capturing, got one that is");
    int device = limits_.index;
    check_stream(cudaStreamGetDevice(stream, &device), expected);
    if (device != limits_.index)
      throw Error(kErrDeviceMismatch, expected + ", got one of cuda:" + std::to_string(device));
    const Event reached(static_cast<cudaStream_t>(first));
    check(cudaStreamWaitEvent(static_cast<cudaStream_t>(second), reached.get()), "cudaStreamWaitEvent");
  }

  static void check_stream(cudaError_t status, const std::string& expected) {
    if (status != cudaErrorInvalidResourceHandle && status != cudaErrorInvalidValue)
      return check(status, "stream");
    cudaGetLastError();
    throw Error(kErrInvalidArgument, expected + ", got a handle that CUDA refuses");
  }

  const DeviceLimits limits_;
  std::shared_ptr<Stream> stream_;
  std::unique_ptr<FailureSlot> slot_;
  Context context_;
  std::unique_ptr<Capture> capture_;
  std::unique_ptr<StageRecording> recording_;
  // Since the last report.
  OpSet unreported_;
  std::optional<Error> refused_;
  // Touched by the waiter alone.
  std::optional<Error> lost_;
  // Last: its thread ends first.
  Waiter waiter_;
};

}  // namespace

std::unique_ptr<Queue> make_queue(int gpu) {
  const auto is_it = [gpu](const Gpu& found) { return found.index == gpu; };
  if (std::none_of(gpus().begin(), gpus().end(), is_it)) throw Error(kErrUnsupported, describe());
  return std::make_unique<CudaQueue>(gpu);
}

}  // namespace moe::cuda
