#include "binding/order.h"

#include <memory>

#include "binding/environment.h"
#include "binding/share.h"
#include "binding/tensors.h"

namespace moe::binding {
namespace {

// The queue of the device that the first argument names.
Queue& queue_of(const Napi::CallbackInfo& info) {
  return Environment::of(info.Env()).queue(info[0].As<Napi::Number>().Int32Value());
}

Napi::Value stream(const Napi::CallbackInfo& info) {
  return from_address(info.Env(), queue_of(info).stream());
}

Napi::Value wait_for_stream(const Napi::CallbackInfo& info) {
  queue_of(info).wait_for_stream(to_address(info[1]));
  return info.Env().Undefined();
}

Napi::Value signal_stream(const Napi::CallbackInfo& info) {
  queue_of(info).signal_stream(to_address(info[1]));
  return info.Env().Undefined();
}

Napi::Value stamp(const Napi::CallbackInfo& info) {
  return share(info.Env(), queue_of(info).stamp());
}

Napi::Value milliseconds(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(),
                           queue_of(info).milliseconds(*shared<Stamp>(info[1]), *shared<Stamp>(info[2])));
}

Napi::Value start_stages(const Napi::CallbackInfo& info) {
  queue_of(info).start_recording();
  return info.Env().Undefined();
}

Napi::Value end_stages(const Napi::CallbackInfo& info) {
  auto spans = Napi::Array::New(info.Env());
  for (const Span& each : queue_of(info).end_recording()) {
    auto span = Napi::Object::New(info.Env());
    span.Set("op", each.op);
    if (each.stage != nullptr) span.Set("stage", each.stage);
    span.Set("beginNs", static_cast<double>(each.begin));
    span.Set("endNs", static_cast<double>(each.end));
    spans.Set(spans.Length(), span);
  }
  return spans;
}

Napi::Value begin_capture(const Napi::CallbackInfo& info) {
  queue_of(info).begin_capture();
  return info.Env().Undefined();
}

Napi::Value end_capture(const Napi::CallbackInfo& info) {
  return share(info.Env(), queue_of(info).end_capture());
}

Napi::Value replay(const Napi::CallbackInfo& info) {
  queue_of(info).replay(*shared<Graph>(info[1]));
  return info.Env().Undefined();
}

Napi::Value release_graph(const Napi::CallbackInfo& info) {
  shared<Graph>(info[0]).reset();
  return info.Env().Undefined();
}

}  // namespace

void export_order(Napi::Env env, Napi::Object exports) {
  exports.Set("stream", Napi::Function::New(env, guarded<stream>));
  exports.Set("waitForStream", Napi::Function::New(env, guarded<wait_for_stream>));
  exports.Set("signalStream", Napi::Function::New(env, guarded<signal_stream>));
  exports.Set("stamp", Napi::Function::New(env, guarded<stamp>));
  exports.Set("milliseconds", Napi::Function::New(env, guarded<milliseconds>));
  exports.Set("startStages", Napi::Function::New(env, guarded<start_stages>));
  exports.Set("endStages", Napi::Function::New(env, guarded<end_stages>));
  exports.Set("beginCapture", Napi::Function::New(env, guarded<begin_capture>));
  exports.Set("endCapture", Napi::Function::New(env, guarded<end_capture>));
  exports.Set("replay", Napi::Function::New(env, guarded<replay>));
  exports.Set("releaseGraph", Napi::Function::New(env, guarded<release_graph>));
}

}  // namespace moe::binding
