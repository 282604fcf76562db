#include "runtime/simt/symbols.h"

#include <cxxabi.h>
#include <elf.h>
#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>

namespace taper::simt {

namespace {

struct Symbols {
  std::unordered_map<const void*, std::string> functions;  // mangled names
  std::vector<SharedArray> shared;
};

std::vector<char> executable() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

uintptr_t load_address() {
  uintptr_t address = 0;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* result) {
        *static_cast<uintptr_t*>(result) = info->dlpi_addr;
        return 1;  // the first is the executable
      },
      &address);
  return address;
}

Symbols read() {
  Symbols symbols;
  const std::vector<char> image = executable();
  if (image.size() < sizeof(Elf64_Ehdr)) return symbols;
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(image.data());
  const auto* sections = reinterpret_cast<const Elf64_Shdr*>(image.data() + header->e_shoff);
  const uintptr_t base = load_address();
  int64_t thread_index = 0;
  for (int section = 0; section < header->e_shnum; ++section) {
    if (sections[section].sh_type != SHT_SYMTAB) continue;
    const auto* first = reinterpret_cast<const Elf64_Sym*>(image.data() + sections[section].sh_offset);
    const auto* last = first + sections[section].sh_size / sizeof(Elf64_Sym);
    const char* names = image.data() + sections[sections[section].sh_link].sh_offset;
    for (const auto* symbol = first; symbol != last; ++symbol) {
      std::string_view name = names + symbol->st_name;
      int type = ELF64_ST_TYPE(symbol->st_info);
      auto value = static_cast<int64_t>(symbol->st_value);
      if (type == STT_TLS && name == "threadIdx") thread_index = value;
      // A function's own variable; the function _Zf's x is called _ZZfE1x.
      if (type == STT_TLS && name.starts_with("_ZZ"))
        symbols.shared.push_back({std::string(name), value, symbol->st_size});
      if (type == STT_FUNC && name.starts_with("_Z"))
        // The loader's sum of two numbers is where the function lies.
        symbols.functions.emplace(
            reinterpret_cast<const void*>(base + symbol->st_value),  // NOLINT(performance-no-int-to-ptr)
            name);
    }
  }
  for (SharedArray& array : symbols.shared) array.offset -= thread_index;
  std::ranges::sort(symbols.shared, {}, &SharedArray::offset);
  return symbols;
}

const Symbols& symbols() {
  static const Symbols symbols = read();
  return symbols;
}

void erase_all(std::string& text, std::string_view part) {
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part))
    text.erase(at, part.size());
}

// Parentheses within angle brackets are those of template arguments.
std::string without_parameters(std::string_view name) {
  std::string result;
  int angles = 0, parentheses = 0;
  for (char letter : name) {
    if (parentheses == 0) angles += letter == '<' ? 1 : letter == '>' ? -1 : 0;
    if (angles == 0 && letter == '(') ++parentheses;
    if (parentheses == 0) result += letter;
    if (angles == 0 && letter == ')') --parentheses;
  }
  return result;
}

// Without parameters, namespaces of Taper's and the result type that a template's name begins with.
std::string demangle(const std::string& mangled) {
  int status = 0;
  std::unique_ptr<char, decltype(&std::free)> text(
      abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status), std::free);
  std::string result = status == 0 ? text.get() : mangled;
  erase_all(result, "(anonymous namespace)::");
  erase_all(result, "taper::");
  if (result.starts_with("void ")) result.erase(0, 5);
  return without_parameters(result);
}

}  // namespace

std::string SharedArray::name() const { return demangle(mangled); }

const KernelSymbol& kernel_symbol(const void* kernel) {
  static std::mutex mutex;
  static std::unordered_map<const void*, KernelSymbol> known;
  std::lock_guard lock(mutex);
  auto [place, added] = known.try_emplace(kernel);
  KernelSymbol& symbol = place->second;
  if (!added) return symbol;
  auto found = symbols().functions.find(kernel);
  symbol.name = found == symbols().functions.end() ? "a kernel without a symbol" : demangle(found->second);
  if (found == symbols().functions.end()) return symbol;
  const std::string prefix = "_ZZ" + found->second.substr(2) + "E";
  for (const SharedArray& array : symbols().shared)
    if (array.mangled.starts_with(prefix)) symbol.shared.push_back(array);
  return symbol;
}

const std::vector<SharedArray>& shared_arrays() { return symbols().shared; }

}  // namespace taper::simt
