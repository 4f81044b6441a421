// The CPU as a device: one native thread runs ops in order; the thread pool helps with each.
#include "ops/queue.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "cpu/backend.h"
#include "cpu/memory.h"
#include "cpu/spin.h"

namespace moe::cpu {
namespace {

struct CpuStamp final : Stamp {
  std::chrono::steady_clock::time_point time;
};

// An op, a stamp to set, or a report to whoever waits.
struct Job {
  std::optional<Op> op;
  Pins pins;
  std::shared_ptr<CpuStamp> stamp;
  Queue::Done done;
};

// Ops with their pins, in order.
struct CpuGraph final : Graph {
  std::vector<Job> jobs;
};

class CpuQueue final : public Queue {
 public:
  CpuQueue() : worker_([this] { work(); }) {}

  // Finishes the job that runs, drops the rest, and joins.
  ~CpuQueue() override {
    {
      const std::lock_guard lock(mutex_);
      closing_ = true;
      pending_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_one();
    worker_.join();
  }

  std::shared_ptr<Storage> allocate(size_t bytes) override {
    try {
      return allocate_storage(bytes);
    } catch (const std::bad_alloc&) {
      throw Error(kErrOutOfMemory, "memory: expected " + std::to_string(bytes) + " bytes, got none");
    }
  }

  void submit(const Op& op, Pins pins) override {
    validate(op);
    Job job = {.op = op, .pins = std::move(pins)};
    if (capture_) {
      capture_->jobs.push_back(std::move(job));
    } else {
      push(std::move(job));
    }
  }

  void write(const Tensor& out, Pins pins, const void* host) override {
    refuse_in_capture("write");
    auto staging = allocate(out.bytes());
    if (out.bytes() > 0) std::memcpy(staging->data(), host, out.bytes());
    Tensor source = out;
    source.data = staging->data();
    pins.push_back(std::move(staging));
    submit(Cast{.source = source, .out = out}, std::move(pins));
  }

  void read(const Tensor& source, Pins pins, void* host, Done done) override {
    refuse_in_capture("data");
    push({.pins = std::move(pins),
          .done = [source, host, done = std::move(done)](std::optional<Error> failure) {
            if (!failure && source.bytes() > 0) std::memcpy(host, source.data, source.bytes());
            done(std::move(failure));
          }});
  }

  void then(Done done) override {
    refuse_in_capture("wait");
    push({.done = std::move(done)});
  }

  std::shared_ptr<Stamp> stamp() override {
    refuse_in_capture("timer");
    auto stamp = std::make_shared<CpuStamp>();
    push({.stamp = stamp});
    return stamp;
  }

  double milliseconds(const Stamp& from, const Stamp& to) override {
    const auto time = [](const Stamp& stamp) { return static_cast<const CpuStamp&>(stamp).time; };
    return std::chrono::duration<double, std::milli>(time(to) - time(from)).count();
  }

  void begin_capture() override {
    refuse_in_capture("capture");
    capture_ = std::make_shared<CpuGraph>();
  }

  std::shared_ptr<Graph> end_capture() override { return std::exchange(capture_, nullptr); }

  void replay(const Graph& graph) override {
    refuse_in_capture("replay");
    for (const Job& job : static_cast<const CpuGraph&>(graph).jobs) push(job);
  }

  // Any address may be the host's.
  void check_memory(const void* /*data*/) const override {}

 private:
  void refuse_in_capture(const char* call) const {
    if (capture_) throw capture_error(call);
  }

  void push(Job job) {
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(std::move(job));
      pending_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_one();
  }

  void work() {
    uint64_t seen = 0;
    while (true) {
      for (Spin spin; pending_.load(std::memory_order_acquire) == seen && !spin.tired();) spin.once();
      Job job;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return closing_ || !jobs_.empty(); });
        if (closing_) return;
        job = std::move(jobs_.front());
        jobs_.pop_front();
        ++seen;
      }
      perform(job);
    }
  }

  void perform(Job& job) {
    if (job.stamp) {
      job.stamp->time = std::chrono::steady_clock::now();
      return;
    }
    if (!job.op) {
      job.done(std::exchange(failure_, std::nullopt));
      return;
    }
    try {
      run(*job.op);
    } catch (const Error& error) {
      fail(error.code(), job, error.what());
    } catch (const std::bad_alloc&) {
      fail(kErrOutOfMemory, job, "no memory for the workspace");
    } catch (const std::exception& error) {
      fail(kErrDevice, job, error.what());
    }
  }

  void fail(const char* code, const Job& job, const std::string& sentence) {
    if (!failure_) failure_.emplace(code, std::string(name_of(*job.op)) + ": " + sentence);
  }

  // What is being captured. Touched by the submitting thread alone.
  std::shared_ptr<CpuGraph> capture_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  // Counts pushes, so that the worker can spin on it without the lock.
  std::atomic<uint64_t> pending_{0};
  bool closing_ = false;
  // The first failure since the last report. Touched by the worker alone.
  std::optional<Error> failure_;
  std::thread worker_;
};

}  // namespace

std::unique_ptr<Queue> make_queue() {
  return std::make_unique<CpuQueue>();
}

}  // namespace moe::cpu
