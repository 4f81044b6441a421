// Names of functions. dladdr() knows exported ones alone, and kernels are not: so this reads the file's own
// table.
#include "symbols.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <link.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <vector>

namespace simt {
namespace {

std::string demangled(const std::string& name) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> text(
      abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status), std::free);
  if (status != 0) return name;
  std::string found = text.get();
  const std::string mark = "[abi:kernel]";  // of __global__
  for (size_t at = found.find(mark); at != std::string::npos; at = found.find(mark))
    found.erase(at, mark.size());
  return found;
}

template <class Record>
std::vector<Record> read_records(std::ifstream& file, uint64_t offset, uint64_t bytes) {
  std::vector<Record> records(bytes / sizeof(Record));
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(reinterpret_cast<char*>(records.data()), static_cast<std::streamsize>(bytes));
  return file ? records : std::vector<Record>{};
}

// The mangled name of the function that begins OFFSET bytes into the image of the file.
std::optional<std::string> name_in(const std::string& path, uint64_t offset) {
  std::ifstream file(path, std::ios::binary);
  const auto header = read_records<ElfW(Ehdr)>(file, 0, sizeof(ElfW(Ehdr)));
  if (header.empty()) return std::nullopt;
  const auto sections =
      read_records<ElfW(Shdr)>(file, header[0].e_shoff, uint64_t{header[0].e_shnum} * sizeof(ElfW(Shdr)));
  for (const ElfW(Shdr) & section : sections) {
    if (section.sh_type != SHT_SYMTAB || section.sh_link >= sections.size()) continue;
    const auto symbols = read_records<ElfW(Sym)>(file, section.sh_offset, section.sh_size);
    const auto names =
        read_records<char>(file, sections[section.sh_link].sh_offset, sections[section.sh_link].sh_size);
    for (const ElfW(Sym) & symbol : symbols) {
      if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC || symbol.st_value != offset) continue;
      if (symbol.st_name < names.size()) return &names[symbol.st_name];
    }
  }
  return std::nullopt;
}

}  // namespace

std::string function_name(const void* address) {
  Dl_info info = {};
  if (dladdr(address, &info) != 0 && info.dli_fname != nullptr) {
    const auto offset = reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(info.dli_fbase);
    const auto absolute = reinterpret_cast<uintptr_t>(address);  // where the file is not position-independent
    for (const uint64_t value : {uint64_t{offset}, uint64_t{absolute}}) {
      if (const auto name = name_in(info.dli_fname, value)) return demangled(*name);
    }
  }
  char text[32];
  std::snprintf(text, sizeof text, "%p", address);
  return text;
}

}  // namespace simt
