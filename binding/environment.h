// What one JavaScript thread owns natively: its queues, its pending promises, and the owners of
// memory that tensors borrow.
#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "ops/queue.h"

namespace moe::binding {

// Live tensors of one JavaScript thread. Shared with their handles, which may be finalized after the
// environment is gone.
struct Accounting {
  int64_t tensors = 0;
  int64_t bytes = 0;
  // What V8 knows of the bytes.
  int64_t reported = 0;
};

class Recording;

class Environment {
 public:
  explicit Environment(Napi::Env env);
  ~Environment();

  static Environment& of(Napi::Env env) { return *env.GetInstanceData<Environment>(); }

  // Of the CPU (0) or of a GPU, made when it is first asked for.
  Queue& queue(int device);
  const std::shared_ptr<Accounting>& accounting() const { return accounting_; }
  // Of the call that is being recorded, or null.
  std::unique_ptr<Recording>& recording() { return recording_; }

  // Memory that belongs to a JavaScript object, which stays alive until the storage is destroyed, on whatever
  // thread.
  std::shared_ptr<Storage> lend(const Napi::Object& owner, void* data, size_t bytes);

  // Lets go of owners whose storage is gone.
  void drop_returned();

  // A promise that settles on this thread once `start`'s callback has been called, or `start` has thrown.
  // `kept` stays alive until then.
  template <class Start>
  Napi::Promise promise(Napi::Env env, Napi::Value kept, Start start) {
    const uint64_t id = begin(env, kept);
    const auto done = [this, id](std::optional<Error> failure) { finish(id, std::move(failure)); };
    try {
      start(done);
    } catch (const Error& error) {
      done(error);
    }
    return pending_.at(id).deferred.Promise();
  }

  // Whether promises have not yet settled.
  bool is_awaited() const { return !pending_.empty(); }

 private:
  struct Pending {
    Napi::Promise::Deferred deferred;
    Napi::Reference<Napi::Value> kept;
  };
  struct Outcome {
    uint64_t id;
    std::optional<Error> failure;
  };
  // Ids of owners that no storage needs any more. Storage may outlive the environment.
  struct Returned {
    std::mutex mutex;
    std::vector<uint64_t> ids;
  };
  class LentStorage;

  uint64_t begin(Napi::Env env, Napi::Value kept);
  // On the queue's thread.
  void finish(uint64_t id, std::optional<Error> failure);
  void settle(Napi::Env env, const Outcome& outcome);
  std::unique_ptr<Recording> recording_;
  std::shared_ptr<Accounting> accounting_ = std::make_shared<Accounting>();
  std::shared_ptr<Returned> returned_ = std::make_shared<Returned>();
  std::unordered_map<uint64_t, Napi::ObjectReference> lent_;
  std::unordered_map<uint64_t, Pending> pending_;
  uint64_t next_id_ = 0;
  Napi::ThreadSafeFunction settler_;
  std::vector<std::unique_ptr<Queue>> queues_;
};

// The memory a TypedArray shows, of an ArrayBuffer or a SharedArrayBuffer.
struct HostBytes {
  void* data;
  size_t size;
};
HostBytes host_bytes(const Napi::TypedArray& view);

// Addresses and native handles travel as unsigned 64-bit BigInts.
Napi::Value from_address(Napi::Env env, const void* address);
void* to_address(const Napi::Value& value);

// The JavaScript Error for a native one: its sentence and its code.
Napi::Error to_javascript(Napi::Env env, const Error& error);

}  // namespace moe::binding
