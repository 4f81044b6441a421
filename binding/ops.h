// The ops: each takes one JavaScript object, reads its description, pins its tensors and enqueues it.
#pragma once

#include <napi.h>

namespace moe::binding {

void export_ops(Napi::Env env, Napi::Object exports);

}  // namespace moe::binding
