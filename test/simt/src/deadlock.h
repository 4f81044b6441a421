// Who waits for what, where nothing can run.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "block.h"

namespace simt {

// A line for each block and place: which threads are there.
std::string who_waits(const std::vector<std::unique_ptr<Cluster>>& residents);

}  // namespace simt
