// What runs when on a device: native streams, timestamps, and graphs of ops to run again.
#pragma once

#include <napi.h>

namespace moe::binding {

void export_order(Napi::Env env, Napi::Object exports);

}  // namespace moe::binding
