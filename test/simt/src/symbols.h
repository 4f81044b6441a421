// Names of functions, for reports.
#pragma once

#include <string>

namespace simt {

// The demangled name of the function at ADDRESS, from the symbol table of the file that holds it; its address
// where that was stripped.
std::string function_name(const void* address);

}  // namespace simt
