// The place in a kernel's source that an emulated call came from: the last parameter of each, by default
// argument. Not std::source_location, which the Clang that lints this does not have.
#pragma once

namespace simt {

class Where {
 public:
  constexpr Where() = default;
  constexpr Where(const char* file, unsigned line) : file_(file), line_(line) {}

  // Of the call whose default argument this is.
  static constexpr Where current(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE()) {
    return {file, line};
  }

  constexpr const char* file() const { return file_; }
  constexpr unsigned line() const { return line_; }  // 0 where it is unknown

 private:
  const char* file_ = "";
  unsigned line_ = 0;
};

// The same line of the same file.
bool operator==(const Where& one, const Where& other);

}  // namespace simt
