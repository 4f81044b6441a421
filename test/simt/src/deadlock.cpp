// Who waits for what: threads of a block in ranges, by the call that they are in.
#include "deadlock.h"

#include <map>

#include "report.h"

namespace simt {
namespace {

// "0-31, 40".
std::string ranges(const std::vector<unsigned>& ranks) {
  std::string text;
  for (size_t first = 0; first < ranks.size();) {
    size_t last = first;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    if (!text.empty()) text += ", ";
    text += std::to_string(ranks[first]);
    if (last > first) text += "-" + std::to_string(ranks[last]);
    first = last + 1;
  }
  return text;
}

std::string standing(const Thread& thread) {
  if (thread.doing == nullptr) return "exited";
  return std::string("at ") + thread.doing + ", " + place(thread.where);
}

}  // namespace

std::string who_waits(const std::vector<std::unique_ptr<Cluster>>& residents) {
  std::string text;
  for (const auto& cluster : residents) {
    for (const auto& block : cluster->blocks) {
      std::map<std::string, std::vector<unsigned>> groups;
      for (unsigned rank = 0; rank < block->thread_count; ++rank) {
        groups[standing(block->threads[rank])].push_back(rank);
      }
      for (const auto& [at, ranks] : groups) {
        text +=
            "  block " + triple(block->threads[0].block) + ", threads " + ranges(ranks) + ": " + at + "\n";
      }
      text += block->mbarriers.describe_awaited();
    }
  }
  if (!text.empty()) text.pop_back();
  return text;
}

}  // namespace simt
