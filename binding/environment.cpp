#include "binding/environment.h"

#include "binding/program.h"

namespace moe::binding {

class Environment::LentStorage final : public Storage {
 public:
  LentStorage(void* data, size_t bytes, uint64_t id, std::shared_ptr<Returned> returned)
      : Storage(data, bytes), id_(id), returned_(std::move(returned)) {}
  // References belong to the JavaScript thread: leave word, and it drops them.
  ~LentStorage() override {
    const std::lock_guard lock(returned_->mutex);
    returned_->ids.push_back(id_);
  }

 private:
  const uint64_t id_;
  const std::shared_ptr<Returned> returned_;
};

Environment::Environment(Napi::Env env)
    : settler_(Napi::ThreadSafeFunction::New(env, Napi::Function(), "moe-kernels", 0, 1)) {
  queues_.push_back(cpu::make_queue());
  // A process with nothing but an idle queue may exit.
  settler_.Unref(env);
  // Registered after the settler's own hook, so run before it: no callback may come from the queue once that
  // is gone.
  env.AddCleanupHook([this] {
    queues_.clear();
    settler_.Release();
  });
}

Environment::~Environment() = default;

Queue& Environment::queue(int device) {
  const auto index = static_cast<size_t>(device);
  if (index >= queues_.size()) queues_.resize(index + 1);
  if (!queues_[index]) queues_[index] = cuda::make_queue(device - 1);
  return *queues_[index];
}

std::shared_ptr<Storage> Environment::lend(const Napi::Object& owner, void* data, size_t bytes) {
  drop_returned();
  const uint64_t id = next_id_++;
  lent_.emplace(id, Napi::Persistent(owner));
  return std::make_shared<LentStorage>(data, bytes, id, returned_);
}

void Environment::drop_returned() {
  if (lent_.empty()) return;
  std::vector<uint64_t> ids;
  {
    const std::lock_guard lock(returned_->mutex);
    ids.swap(returned_->ids);
  }
  for (uint64_t id : ids) lent_.erase(id);
}

uint64_t Environment::begin(Napi::Env env, Napi::Value kept) {
  if (pending_.empty()) settler_.Ref(env);
  const uint64_t id = next_id_++;
  // Only objects can be referenced.
  auto held = kept.IsObject() ? Napi::Reference<Napi::Value>::New(kept, 1) : Napi::Reference<Napi::Value>();
  pending_.emplace(id, Pending{Napi::Promise::Deferred::New(env), std::move(held)});
  return id;
}

void Environment::finish(uint64_t id, std::optional<Error> failure) {
  auto* outcome = new Outcome{id, std::move(failure)};
  const napi_status status =
      settler_.NonBlockingCall(outcome, [this](Napi::Env env, Napi::Function, Outcome* data) {
        const std::unique_ptr<Outcome> owned(data);
        // Without an environment the process is on its way out.
        if (env != nullptr) settle(env, *owned);
      });
  if (status != napi_ok) delete outcome;
}

void Environment::settle(Napi::Env env, const Outcome& outcome) {
  const Napi::HandleScope scope(env);
  auto found = pending_.find(outcome.id);
  const Pending pending = std::move(found->second);
  pending_.erase(found);
  if (pending_.empty()) settler_.Unref(env);
  drop_returned();
  if (outcome.failure) {
    pending.deferred.Reject(to_javascript(env, *outcome.failure).Value());
  } else {
    pending.deferred.Resolve(env.Undefined());
  }
}

HostBytes host_bytes(const Napi::TypedArray& view) {
  HostBytes bytes = {nullptr, view.ByteLength()};
  const napi_status status =
      napi_get_typedarray_info(view.Env(), view, nullptr, nullptr, &bytes.data, nullptr, nullptr);
  if (status != napi_ok) throw Error(kErrInvalidArgument, "data: expected a TypedArray");
  return bytes;
}

Napi::Value from_address(Napi::Env env, const void* address) {
  return Napi::BigInt::New(env, static_cast<uint64_t>(reinterpret_cast<uintptr_t>(address)));
}

void* to_address(const Napi::Value& value) {
  bool lossless = false;
  const uint64_t address = value.As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) throw Error(kErrInvalidArgument, "address: expected an unsigned 64-bit integer");
  // NOLINTNEXTLINE(performance-no-int-to-ptr): that is what it is
  return reinterpret_cast<void*>(static_cast<uintptr_t>(address));
}

Napi::Error to_javascript(Napi::Env env, const Error& error) {
  Napi::Error converted = Napi::Error::New(env, error.what());
  converted.Set("code", error.code());
  return converted;
}

}  // namespace moe::binding
