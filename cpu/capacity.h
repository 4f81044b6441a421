// Who is dropped where experts take only so many rows.
#pragma once

#include "ops/router.h"

namespace moe::cpu {

// Marks in `dropped` the served slots that exceed the capacity of their expert in their run of tokens, sets
// their weights to zero, and lets tokens without any served slot pass where the capacity says so.
void apply_capacity(const Route& op);

}  // namespace moe::cpu
