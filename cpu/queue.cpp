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
#include "cpu/stages.h"

namespace moe::cpu {
namespace {

struct CpuStamp final : Stamp {
  std::chrono::steady_clock::time_point time;
};

// An op, a program, a stamp to set, or a report to whoever waits.
struct Job {
  std::shared_ptr<const Op> op;
  ProgramRun run;
  Pins pins;
  std::shared_ptr<CpuStamp> stamp;
  // With a report: what is copied where before it, if anything is.
  Tensor source;
  void* host = nullptr;
  Queue::Done done;

  // What it will take, as far as that is known.
  std::chrono::nanoseconds expected = std::chrono::hours(1);
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
    }
    announce();
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
    collect_or_push({.op = std::make_shared<const Op>(op), .pins = std::move(pins)});
  }

  void submit_all(ProgramRun run) override {
    const auto expected = run.program->last_run();
    collect_or_push({.run = std::move(run), .expected = expected});
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
    push({.pins = std::move(pins), .source = source, .host = host, .done = std::move(done)});
  }

  void then(Done done) override {
    refuse_in_capture("wait");
    push({.done = std::move(done)});
  }

  bool settled() override {
    if (capture_) return false;
    const uint64_t pushed = pushed_.load(std::memory_order_acquire);
    if (performed_.load(std::memory_order_acquire) < pushed) {
      if (expected_.load(std::memory_order_relaxed) > kMoment.count()) return false;
      while (perform_next()) {
      }
      // One that the worker had begun.
      for (Spin spin; performed_.load(std::memory_order_acquire) < pushed; spin.once()) {
        if (spin.tired()) return false;
      }
    }
    if (auto failure = take_failure()) throw Error(*failure);
    return true;
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

  void start_recording() override { cpu::start_recording(); }
  std::vector<Span> end_recording() override { return cpu::end_recording(); }

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
  // What a caller spends at most on what it need not wait for: less than a turn of the event loop would take.
  static constexpr std::chrono::nanoseconds kMoment = std::chrono::microseconds(30);

  void refuse_in_capture(const char* call) const {
    if (capture_) throw capture_error(call);
  }

  void collect_or_push(Job job) {
    if (capture_) {
      capture_->jobs.push_back(std::move(job));
    } else {
      push(std::move(job));
    }
  }

  void push(Job job) {
    expected_.fetch_add(job.expected.count(), std::memory_order_relaxed);
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(std::move(job));
      pushed_.fetch_add(1, std::memory_order_release);
    }
    announce();
  }

  // Without the lock, or the worker that looks on would run into it.
  void announce() {
    announced_.fetch_add(1, std::memory_order_release);
    wake_.notify_one();
  }

  void work() {
    while (true) {
      const uint64_t announced = announced_.load(std::memory_order_acquire);
      if (perform_next()) continue;
      Spin spin;
      while (announced_.load(std::memory_order_acquire) == announced && !spin.tired()) spin.once();
      if (!spin.tired()) continue;
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return closing_ || (!busy_ && !jobs_.empty()); });
      if (closing_) return;
    }
  }

  // On the worker, or on a thread that would otherwise wait. False where there is nothing to begin.
  bool perform_next() {
    Job job;
    {
      const std::lock_guard lock(mutex_);
      if (closing_ || busy_ || jobs_.empty()) return false;
      busy_ = true;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    std::optional<Error> failure = perform(job);
    const Queue::Done done = std::move(job.done);
    const auto expected = job.expected;
    job = {};
    // Its memory has gone back when others hear of it, and who is told may find the queue idle.
    expected_.fetch_sub(expected.count(), std::memory_order_relaxed);
    performed_.fetch_add(1, std::memory_order_release);
    bool more = false;
    {
      const std::lock_guard lock(mutex_);
      busy_ = false;
      more = !jobs_.empty();
    }
    if (more) wake_.notify_one();
    if (done) done(std::move(failure));
    return true;
  }

  // What is to be reported, where that is the job.
  std::optional<Error> perform(const Job& job) {
    if (job.stamp) {
      job.stamp->time = std::chrono::steady_clock::now();
    } else if (job.done) {
      auto failure = take_failure();
      if (!failure && job.host != nullptr) std::memcpy(job.host, job.source.data, job.source.bytes());
      return failure;
    } else if (job.op) {
      run_op(*job.op);
    } else {
      run_program(job.run);
    }
    return std::nullopt;
  }

  void run_program(const ProgramRun& run) {
    const auto begun = std::chrono::steady_clock::now();
    for (size_t i = 0; i < run.program->size(); ++i) run_op(run.program->op(i, run.places));
    run.program->took(std::chrono::steady_clock::now() - begun);
  }

  void run_op(const Op& op) {
    const OpTimer timer(op);
    try {
      run(op);
    } catch (const Error& error) {
      fail(error.code(), op, error.what());
    } catch (const std::bad_alloc&) {
      fail(kErrOutOfMemory, op, "no memory for the workspace");
    } catch (const std::exception& error) {
      fail(kErrDevice, op, error.what());
    }
  }

  void fail(const char* code, const Op& op, const std::string& sentence) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_.emplace(code, std::string(name_of(op)) + ": " + sentence);
  }

  std::optional<Error> take_failure() {
    const std::lock_guard lock(mutex_);
    return std::exchange(failure_, std::nullopt);
  }

  // What is being captured. Touched by the submitting thread alone.
  std::shared_ptr<CpuGraph> capture_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  // Jobs ever pushed, pushed with the lock let go of since, and performed: for those who look on without it.
  std::atomic<uint64_t> pushed_{0};
  std::atomic<uint64_t> announced_{0};
  std::atomic<uint64_t> performed_{0};
  // Nanoseconds, of the jobs that are not yet performed.
  std::atomic<int64_t> expected_{0};
  // Somebody performs a job.
  bool busy_ = false;
  bool closing_ = false;
  // The first failure since the last report.
  std::optional<Error> failure_;
  std::thread worker_;
};

}  // namespace

std::unique_ptr<Queue> make_queue() {
  return std::make_unique<CpuQueue>();
}

}  // namespace moe::cpu
