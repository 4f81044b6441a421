// The error that crosses every layer: a stable code and one sentence. The binding turns it into a JavaScript
// Error.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace moe {

class Error : public std::runtime_error {
 public:
  Error(const char* code, const std::string& message) : std::runtime_error(message), code_(code) {}
  // One of the ErrorCode names of src/errors.ts.
  const char* code() const { return code_; }

 private:
  const char* code_;
};

inline constexpr const char* kErrInvalidArgument = "ERR_INVALID_ARGUMENT";
inline constexpr const char* kErrShape = "ERR_SHAPE";
inline constexpr const char* kErrDType = "ERR_DTYPE";
inline constexpr const char* kErrDisposed = "ERR_DISPOSED";
inline constexpr const char* kErrUnsupported = "ERR_UNSUPPORTED";
inline constexpr const char* kErrOutOfMemory = "ERR_OUT_OF_MEMORY";
inline constexpr const char* kErrIndexRange = "ERR_INDEX_RANGE";
inline constexpr const char* kErrDeviceMismatch = "ERR_DEVICE_MISMATCH";
inline constexpr const char* kErrCapture = "ERR_CAPTURE";
inline constexpr const char* kErrDevice = "ERR_DEVICE";

}  // namespace moe
