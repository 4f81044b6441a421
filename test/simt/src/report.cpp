// The words of an error, and where the last one is kept.
#include "report.h"

#include <cstdio>
#include <mutex>
#include <string_view>

#include "engine.h"
#include "simt/control.h"
#include "symbols.h"

namespace simt {
namespace {

std::mutex lock;

std::string& last() {
  static auto* const text = new std::string;  // for whoever asks while the process exits
  return *text;
}

}  // namespace

std::string place(const Where& where) {
  if (where.line() == 0) return "an unknown line";
  const std::string_view file = where.file();
  const size_t slash = file.find_last_of('/');
  return std::string(slash == std::string_view::npos ? file : file.substr(slash + 1)) + ":" +
         std::to_string(where.line());
}

bool operator==(const Where& one, const Where& other) {
  return one.line() == other.line() &&
         (one.file() == other.file() || std::string_view(one.file()) == other.file());
}

std::string triple(uint3 index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) +
         ")";
}

std::string describe(const Thread& thread) {
  std::string text = "block " + triple(thread.block) + ", thread " + triple(thread.thread);
  if (thread.doing == nullptr) return text + ", which has exited";
  text += std::string(", at or after ") + thread.doing;
  return thread.where.line() == 0 ? text : text + ", " + place(thread.where);
}

void fail(cudaError_t code, std::string text) {
  if (here == nullptr) throw Failure{.code = code, .text = std::move(text)};
  Thread& thread = self();
  text += "\n  " + describe(thread);
  thread.block_state->engine->abandon({.code = code, .text = std::move(text)});
}

void fail(std::string text) {
  fail(cudaErrorLaunchFailure, std::move(text));
}

void publish_report(const std::string& text) {
  std::fprintf(stderr, "simt: %s\n", text.c_str());
  const std::lock_guard hold(lock);
  last() = text;
}

void forget_report() {
  const std::lock_guard hold(lock);
  last().clear();
}

std::string last_report() {
  const std::lock_guard hold(lock);
  return last();
}

}  // namespace simt
