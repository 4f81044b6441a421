// Errors that kernels make: what happened, to which thread of which kernel, at which line.
#pragma once

#include <string>

#include "simt/runtime_types.h"
#include "simt/where.h"

namespace simt {

struct Thread;
struct Launch;

struct Failure {
  cudaError_t code = cudaSuccess;
  std::string text;
};

// "router.cu:120".
std::string place(const Where& where);

// "(1, 0, 0)".
std::string triple(uint3 index);

// "block (0, 0, 0), thread (3, 0, 0), at __syncthreads, router.cu:120".
std::string describe(const Thread& thread);

// Ends the launch that the running thread belongs to. TEXT says what the thread did wrong. Where no thread
// runs, but the scheduler completes a copy, throws a Failure to it.
[[noreturn]] void fail(cudaError_t code, std::string text);
[[noreturn]] void fail(std::string text);

// What last_report() gives from now on; also written to standard error.
void publish_report(const std::string& text);
void forget_report();

}  // namespace simt
